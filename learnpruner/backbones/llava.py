"""LLaVA-1.5: one image of N patches without [CLS], from CLIP or SigLIP, a pointwise projector, N placeholders."""

from __future__ import annotations

from torch import nn

from learnpruner.backbones.family import ModelFamily
from learnpruner.utils.errors import UserError


class LlavaFamily(ModelFamily):
    """All defaults fit; models that feed [CLS] to the language model, or leave out a patch, are refused."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        kind = self.config.vision_config.model_type
        if kind == "pixtral":
            raise UserError(
                f"A vision tower of type {kind!r} is not supported: it runs all images as one sequence; choose a model with "
                "a tower such as CLIP's or SigLIP's."
            )
        given = self.config.vision_feature_select_strategy
        wanted, reason = (
            ("default", "[CLS] would be among the visual tokens")
            if self.has_cls
            else ("full", "this tower has no [CLS], and its first patch would be left out in its place")
        )
        if given != wanted:
            raise UserError(
                f"vision_feature_select_strategy={given!r} is not supported: {reason}; choose a model with {wanted!r}."
            )
