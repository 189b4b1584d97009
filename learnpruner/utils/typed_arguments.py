"""Arguments that come from a file, checked against the types that a class says."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from learnpruner.utils.errors import UserError


def check_arguments(kind: type, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a class does not take, and values of other types than it says.

    Raises:
        TypeError: for other names. UserError: for the first value that does not fit.
    """
    inspect.signature(kind).bind(**arguments)
    hints = get_type_hints(kind.__init__)  # type: ignore[misc]  # of the class itself
    for name, value in arguments.items():
        try:
            adapter = TypeAdapter(hints.get(name, Any))
        except PydanticUserError:  # a type that no JSON holds
            continue
        try:
            adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise UserError(f"{name} is {value!r}: {first_violation(error)}") from None


def first_violation(error: ValidationError) -> str:
    """Word what is wrong first."""
    found = error.errors(include_url=False)[0]
    place = ".".join(map(str, found["loc"]))
    rule = "this version knows no such field" if found["type"] == "extra_forbidden" else found["msg"]
    return f"{place}: {rule.removeprefix('Value error, ')}" if place else rule
