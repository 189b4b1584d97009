"""What all parts of the schema share: types of values, and the base class that reads settings as YAML holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError

from learnpruner.config.sentences import violations
from learnpruner.utils.errors import SettingsError, UserError

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


class Settings(BaseModel):
    """A part of the configuration; every key that it does not have is refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", coerce_numbers_to_str=True, populate_by_name=True)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        """Check settings as they come out of YAML files and the command line.

        Raises:
            SettingsError: with a sentence for everything that is wrong.
        """
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise SettingsError(*violations(error, cls)) from None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, as a YAML file would hold them."""
        return self.model_dump(by_alias=True)


class Built(Settings):
    """Settings of an object, which `hydra.utils.instantiate` makes of them. target: its class, `_target_` in a file."""

    target: Target = Field(alias="_target_")
