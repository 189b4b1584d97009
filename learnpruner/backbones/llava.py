"""LLaVA-1.5: one CLIP image of N patches without [CLS], a pointwise projector, N placeholders."""

from __future__ import annotations

from torch import nn

from learnpruner.engine.adapter import Adapter


class Family(Adapter):
    """All defaults fit; only models that feed [CLS] to the language model are refused."""

    strategy = "default"  # of choosing features: without [CLS]

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        given = self.config.vision_feature_select_strategy
        if given != self.strategy:
            raise ValueError(
                f"vision_feature_select_strategy={given!r} is not supported: use {self.strategy!r} (no [CLS])."
            )
