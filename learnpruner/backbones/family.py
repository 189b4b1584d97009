"""What the engine asks of a model family: where the visual features are and how they meet the placeholders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from learnpruner.backbones.dimensions import ModelDimensions, language_dimensions, square_dimensions
from learnpruner.utils.errors import UserError

PatchGrids = list[tuple[int, int]]  # (H, W) of the patch grids that an image's tokens are, one after the other


class ModelFamily:
    """A family's seams; `Family` classes in `learnpruner/backbones/` override what differs.

    The defaults fit models with a CLIP-like tower, a projector that treats each token alone, and as many placeholders
    an image as features.
    """

    projector_is_pointwise = True  # what a placeholder shows is one feature through the projector, not a mix of several
    projector_skips_dropped = True  # the projector can run on kept features only: structural placeholders show none
    pixel_inputs: tuple[str, ...] = ("pixel_values",)  # names under which a call brings images and videos
    tower_is_watchable = True  # layers of the tower run one sequence an image, or piece of it, and can be watched
    native_resolution = False  # the tower takes pictures of any size: a smaller one has fewer tokens
    rotary_axes = 1  # more than one (M-RoPE) allows original positions only

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.inner_model: Any = model.model
        self.config: Any = model.config

    @classmethod
    def dimensions(cls, config: Any) -> ModelDimensions:
        """Tell the sizes that a model's cost depends on.

        Args:
            config: of a model of this family.
        """
        return ModelDimensions(**language_dimensions(config), **cls.vision_dimensions(config))

    @classmethod
    def vision_dimensions(cls, config: Any) -> dict[str, int]:
        """Tell the vision side's, as arguments of `ModelDimensions`."""
        return square_dimensions(config)

    @property
    def features_are_placeholders(self) -> bool:
        """Whether each image is one row of the tower's batch, and its features are its placeholders."""
        return type(self).pack is ModelFamily.pack

    @property
    def language_model(self) -> Any:
        """The language model, a module with .layers, .rotary_emb and .config."""
        return self.inner_model.language_model

    @property
    def tower(self) -> nn.Module:
        """The vision tower."""
        return cast(nn.Module, self.inner_model.vision_tower)

    @property
    def towers(self) -> list[nn.Module]:
        """All vision towers, where images and videos have their own; alike in shape."""
        return [self.tower]

    @property
    def tower_layers(self) -> nn.ModuleList:
        """The tower's encoder layers, each with .self_attn."""
        return self.layers_of(self.tower)

    def layers_of(self, tower: nn.Module) -> nn.ModuleList:
        """Find the encoder layers of one of the towers."""
        inner: Any = getattr(tower, "vision_model", tower)
        return cast(nn.ModuleList, inner.encoder.layers)

    @property
    def has_cls(self) -> bool:
        """Whether the tower's sequence begins with a [CLS] token."""
        return any(name.endswith(("class_embedding", "cls_token")) for name, _ in self.tower.named_parameters())

    def cls_state(self, output: Any) -> Tensor:
        """Read [CLS], as the projector would, from the tower's output: (I, D)."""
        index = self.config.vision_feature_layer
        chosen = [index] if isinstance(index, int) else index
        return torch.cat([output.hidden_states[layer][:, 0] for layer in chosen], -1)

    def patch_states(self, output: Any) -> Tensor:
        """Read the patches' hidden states in the layer that the projector reads, the last of several: (I, N, D)."""
        index = self.config.vision_feature_layer
        states: Tensor = output.hidden_states[index if isinstance(index, int) else index[-1]]
        return states[:, int(self.has_cls) :]

    @property
    def projector(self) -> nn.Module:
        """The module whose input is the visual features: the projector."""
        return cast(nn.Module, self.inner_model.multi_modal_projector)

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
        return next(self.projector.parameters()).device

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
    def quoted_side(self) -> int | None:
        """Pixels a side of a square picture with N visual tokens; None where every picture has N."""
        return None

    @property
    def earliest_cut(self) -> int:
        """The first layer, beside 0, on whose entry tokens may go."""
        return 1

    @property
    def layers(self) -> int:
        """Layers of the language model."""
        return self.config.text_config.num_hidden_layers

    def placeholders(self, input_ids: Tensor, inputs: Mapping[str, Any] | None = None) -> Tensor:
        """Mark which prompt positions are visual.

        Args:
            input_ids: (B, L).
            inputs: of a call; the token of a medium that it does not bring is text to the model, and None takes both
                media.

        Returns:
            (B, L) bool.
        """
        images, video = input_ids == self.config.image_token_id, getattr(self.config, "video_token_id", None)
        if video is None:
            return images
        if inputs is None:
            return images | (input_ids == video)
        return images if inputs.get("pixel_values_videos") is None else input_ids == video

    def other_inputs(self, kwargs: Mapping[str, Any], index: Tensor, present: Tensor) -> dict[str, Any]:
        """Gather what else the language model gets a token.

        Args:
            kwargs: of the language model's call.
            index: (B, S) prompt positions that stay.
            present: (B, S), False on fillers.

        Returns:
            Its arguments that change.
        """
        return {}

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Refuse a call that reads its images otherwise than the model's config says, which is what an adapter goes by.

        Raises:
            UserError: where it does.
        """
        for name in ("vision_feature_layer", "vision_feature_select_strategy", "vision_aspect_ratio"):
            given, own = inputs.get(name), getattr(self.config, name, None)
            if given is not None and given != own:
                raise UserError(
                    f"{name}={given!r} in a call is not supported under a plan, which goes by the model's config ({own!r}): "
                    f"set model.config.{name} before the plan is attached."
                )

    def brings_pictures(self, inputs: Mapping[str, Any]) -> bool:
        """Tell whether a call brings images or videos."""
        return any(inputs.get(name) is not None for name in self.pixel_inputs)

    def grids(self, shows: Sequence[Tensor], inputs: Mapping[str, Any]) -> list[PatchGrids]:
        """Find for each image of a call the grids that its visual tokens make up in order: its tiles, or a video's frames.

        Args:
            shows: one (P,) bool an image, which of its placeholders show a visual token.
            inputs: of the call.
        """
        return [[self.grid]] * len(shows)

    def split_features(self, features: Tensor) -> Tensor:
        """Split the tap's input into T pieces of n features: (T, n, D)."""
        return features

    def image_values(self, values: Tensor, first: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Restate what is said of pieces, (T, ...), for images, (I, ...): `first` piece of each, the whole picture in small."""
        return values[first]

    def pack(self, rows: Tensor, inputs: Mapping[str, Any], structural: float) -> list[Tensor]:
        """Rearrange one value a feature as one a placeholder of each image, in the order of the prompt.

        Args:
            rows: (T, n, C), of the features.
            inputs: of the call.
            structural: the value of placeholders that show no feature, such as row separators.

        Returns:
            (P, C) an image.
        """
        return list(rows)
