"""The base class of all settings: reads them as YAML files hold them, and refuses what it does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from learnpruner.config.sentences import violations
from learnpruner.config.value_ranges import Target
from learnpruner.utils.errors import SettingsError


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
        """List the same as plain values, as a YAML file would hold them."""
        return self.model_dump(by_alias=True)


class Built(Settings):
    """Settings of an object, which `hydra.utils.instantiate` makes of them.

    Attributes:
        target: its class, `_target_` in a file.
    """

    target: Target = Field(alias="_target_")
