"""Groups that are mappings of objects by name: conf/loss, conf/callbacks, conf/logger."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, ValidationInfo

from learnpruner.config.settings import Built
from learnpruner.config.value_ranges import Amount
from learnpruner.utils.errors import UserError


class LossTermConfig(Built):
    """A term of the loss; what else its class takes stands beside it.

    Attributes:
        weight: its factor in the sum, 0 leaves it out.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")
    weight: Amount = 1.0


class EntryConfig(Built):
    """A callback or a logger, with the arguments of its class."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")


def _left_out(value: Any, info: ValidationInfo) -> Any:
    """False in a file, or on the command line, leaves an entry out as null does."""
    if value is True or not isinstance(value, dict | bool | type(None) | Built):
        raise UserError(
            f"{info.field_name} holds {value!r}, which is no entry: it is a mapping with a `_target_`, or false to leave it out."
        )
    return None if value is False else value


Entry = Annotated[EntryConfig | None, BeforeValidator(_left_out)]
LossEntry = Annotated[LossTermConfig | None, BeforeValidator(_left_out)]
