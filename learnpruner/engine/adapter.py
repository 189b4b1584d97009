"""What the engine asks of a model family: where the visual features are and how they meet the placeholders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn


class Adapter:
    """A family's seams; `Family` classes in `learnpruner/backbones/` override what differs.

    The defaults fit models with a CLIP-like tower, a projector that treats each token alone, and as many placeholders
    an image as features.
    """

    pointwise = True  # the projector treats each token alone, so that it can run on the kept ones only
    rotary_axes = 1  # more than one (M-RoPE) allows original positions only

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.core: Any = model.model
        self.config: Any = model.config

    @property
    def lm(self) -> Any:
        """The language model, a module with .layers, .rotary_emb and .config."""
        return self.core.language_model

    @property
    def tower(self) -> nn.Module:
        """The vision tower."""
        return cast(nn.Module, self.core.vision_tower)

    @property
    def tower_layers(self) -> nn.ModuleList:
        """Its encoder layers, each with .self_attn."""
        tower: Any = getattr(self.tower, "vision_model", self.tower)
        return cast(nn.ModuleList, tower.encoder.layers)

    @property
    def tap(self) -> nn.Module:
        """The module whose input is the visual features: the projector."""
        return cast(nn.Module, self.core.multi_modal_projector)

    @property
    def has_cls(self) -> bool:
        """Whether the tower's sequence begins with a [CLS] token."""
        return any(name.endswith(("class_embedding", "cls_token")) for name, _ in self.tower.named_parameters())

    def cls_state(self, output: Any) -> Tensor:
        """[CLS] as the projector would read it, from the tower's output: (I, D)."""
        index = self.config.vision_feature_layer
        chosen = [index] if isinstance(index, int) else index
        return torch.cat([output.hidden_states[layer][:, 0] for layer in chosen], -1)

    @property
    def feature_layer(self) -> int:
        """The tower layer whose output the projector reads."""
        index = self.config.vision_feature_layer
        index = index if isinstance(index, int) else index[-1]
        return index - 1 if index >= 0 else len(self.tower_layers) + index

    @property
    def feature_width(self) -> int:
        """D of the features before the projector."""
        index = self.config.vision_feature_layer
        return self.config.vision_config.hidden_size * (1 if isinstance(index, int) else len(index))

    @property
    def text_width(self) -> int:
        """D of the language model."""
        return self.config.text_config.hidden_size

    @property
    def device(self) -> torch.device:
        """Where the visual features lie."""
        return next(self.tap.parameters()).device

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) patches of one image."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

    @property
    def tokens(self) -> int:
        """N visual tokens of one image."""
        return self.grid[0] * self.grid[1]

    @property
    def layers(self) -> int:
        """Layers of the language model."""
        return self.config.text_config.num_hidden_layers

    def placeholders(self, input_ids: Tensor) -> Tensor:
        """Which prompt positions are visual: (B, L) bool."""
        return input_ids == self.config.image_token_id

    def other_inputs(self, kwargs: Mapping[str, Any], index: Tensor, present: Tensor) -> dict[str, Any]:
        """What else the language model gets a token, gathered by index (B, S); present (B, S) is False on fillers."""
        return {}

    def candidates(self, features: Tensor, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The tap's input as one row an image, (I, N, D), and which entries are real, (I, N) or None for all."""
        return features, None

    def place(self, values: Tensor, inputs: Mapping[str, Any], structural: float) -> Tensor:
        """A value for each candidate, (I, N), as a flat tensor in the order of the placeholders.

        structural: the value of placeholders that are no candidate, such as row separators.
        """
        return values.flatten()
