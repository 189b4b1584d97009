"""Which values a setting may have: whole numbers and others, each with its range; the names of classes."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, Strict

from learnpruner.utils.errors import UserError

Whole = Annotated[int, Strict()]
Natural = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Whole, Field(ge=1)]
Number = Annotated[float, Strict()]
Amount = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
AboveZero = Annotated[Number, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1, allow_inf_nan=False)]


def _seed(value: int) -> int:
    if not 0 <= value < 2**32:
        raise UserError(f"seed is {value}; it must be 0 or more, and at most {2**32 - 1}.")
    return value


def _target(value: str) -> str:
    """Whether it reads as a dotted name; whether it can be imported is checked by who imports it."""
    if not all(part.isidentifier() for part in value.split(".")) or "." not in value:
        raise UserError(f"{value!r} is no class's dotted name, such as torch.optim.AdamW.")
    return value


Seed = Annotated[Whole, AfterValidator(_seed)]
Target = Annotated[str, AfterValidator(_target)]
