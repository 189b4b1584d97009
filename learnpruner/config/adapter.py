"""What learns beside the pruner: conf/adapter."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from learnpruner.config.settings import Settings
from learnpruner.config.value_ranges import AboveZero, Amount, Positive, Target
from learnpruner.utils.errors import UserError

LORA = "learnpruner.adapters.lora.LoraAdapter"


class AdapterConfig(Settings):
    """What learns beside the pruner.

    Attributes:
        target: its class; None for nothing.
        lr: its own learning rate, which follows the same schedule; None is the pruner's.
    """

    target: Target | None = Field(None, alias="_target_")
    lr: Amount | None = None

    @model_validator(mode="after")
    def _has_something_to_learn(self) -> Self:
        if self.lr is not None and self.target is None:
            raise UserError(
                f"adapter.lr is {self.lr}, but nothing is adapted: choose adapter=lora or adapter=projector."
            )
        return self


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise UserError(f"adapter.target_modules={value!r} is no regular expression: {error}.") from None
    return value


class LoraAdapterConfig(AdapterConfig):
    """Low-rank updates of the language model.

    Attributes:
        r: rank; higher adapts more, with more weights and time.
        alpha: the update counts alpha / r times.
        dropout: share of its input that it does not see in training.
        target_modules: regular expression of whole names of linear layers.
    """

    r: Positive = 8
    alpha: AboveZero = 16.0
    dropout: Annotated[Amount, Field(lt=1)] = 0.0
    target_modules: Annotated[str, AfterValidator(_pattern)] = ".*_proj"


def _kind(value: Any) -> str:
    target = value.get("_target_") if isinstance(value, dict) else getattr(value, "target", None)
    return "<lora>" if target == LORA else "<plain>"


AnyAdapter = Annotated[
    Annotated[LoraAdapterConfig, Tag("<lora>")] | Annotated[AdapterConfig, Tag("<plain>")], Discriminator(_kind)
]
