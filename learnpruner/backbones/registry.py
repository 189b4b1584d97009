"""The registry of model families, by Hugging Face model type."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel

from learnpruner.backbones.family import ModelFamily
from learnpruner.utils.errors import UserError

ENTRY_POINTS = "learnpruner.families"  # the group under which an installed package names its own, by model type

_F = TypeVar("_F", bound=ModelFamily)
_FAMILIES: dict[
    str, str | type[ModelFamily]
] = {  # a class, or where it is: its module is imported when it is asked for
    "llava": "learnpruner.backbones.llava:LlavaFamily",
    "llava_next": "learnpruner.backbones.llava_next:LlavaNextFamily",
    "llava_onevision": "learnpruner.backbones.llava_onevision:LlavaOnevisionFamily",
    "qwen2_5_vl": "learnpruner.backbones.qwen2_5_vl:Qwen25VLFamily",
    "qwen3_vl": "learnpruner.backbones.qwen3_vl:Qwen3VLFamily",
    "video_llava": "learnpruner.backbones.video_llava:VideoLlavaFamily",
}


def register_family(model_type: str) -> Callable[[type[_F]], type[_F]]:
    """Make a family known, as a class decorator: `@learnpruner.register_family("my_vlm")`.

    An installed package does without by an entry point in the group "learnpruner.families": `my_vlm = "pkg.module:Class"`.

    Args:
        model_type: what the model's config calls itself; one that is known already is replaced.

    Raises:
        UserError: where the class is no `ModelFamily`.
    """

    def register(family: type[_F]) -> type[_F]:
        if not (isinstance(family, type) and issubclass(family, ModelFamily)):
            raise UserError(f"{family!r} is refused as the family of {model_type!r}: derive it from ModelFamily.")
        _FAMILIES[model_type] = family
        return family

    return register


def known_families() -> list[str]:
    """List the model types that plans can be put on, those of installed packages included."""
    return sorted({*_FAMILIES, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def family_class(model_type: str | None) -> type[ModelFamily]:
    """Find the family of a model type.

    Raises:
        UserError: where there is none.
    """
    found: Any = _FAMILIES.get(str(model_type))
    if found is None:
        point = next(iter(entry_points(group=ENTRY_POINTS, name=str(model_type))), None)
        if point is None:
            known = ", ".join(known_families())
            raise UserError(f"model_type={model_type!r} is not supported yet; known families: {known}.")
        found = point.load()
    if isinstance(found, str):
        module, _, name = found.partition(":")
        found = getattr(importlib.import_module(module), name)
    return register_family(str(model_type))(found)


def family_of(model: nn.Module) -> ModelFamily:
    """Describe a model by its family.

    Args:
        model: a Hugging Face model with its language head; what torch.compile, PEFT and data parallelism wrap around it
            is looked through.

    Raises:
        UserError: where it is none, or of no known family.
    """
    base: Any = model
    while not isinstance(base, PreTrainedModel):
        inner = getattr(base, "_orig_mod", None) or getattr(base, "module", None)
        base = base.get_base_model() if hasattr(base, "get_base_model") else inner
        if base is None:
            raise UserError(f"A plan goes on a Hugging Face model, not on a {type(model).__name__}.")
    kind = family_class(getattr(base.config, "model_type", None))
    if base.get_output_embeddings() is None:
        raise UserError(
            "A plan goes on the model with its language head, such as LlavaForConditionalGeneration: this is a "
            f"{type(base).__name__}."
        )
    family = kind(base)
    _check_feature_layers(family)
    return family


def _check_feature_layers(family: ModelFamily) -> None:
    """Refuse a config whose projector reads layers that the tower has not."""
    index = getattr(family.config, "vision_feature_layer", None)
    read = [] if index is None else [index] if isinstance(index, int) else list(index)
    count = len(family.tower_layers) if read else 0
    if any(not -count - 1 <= one <= count for one in read):
        raise UserError(
            f"vision_feature_layer={index!r} is refused: the vision tower has {count} layers; mend the model's config.json."
        )
