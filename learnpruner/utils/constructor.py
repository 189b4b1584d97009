"""What an object was made with, read back from it for an export."""

from __future__ import annotations

import inspect
from typing import Any


def constructor_arguments(made: object) -> dict[str, Any]:
    """List the arguments of an object's constructor by name, as far as it keeps them as attributes.

    Args:
        made: an object whose class stores each argument under the argument's name.
    """
    names = list(inspect.signature(type(made).__init__).parameters)[1:]
    return {name: getattr(made, name) for name in names if hasattr(made, name)}


def dotted_name(kind: type) -> str:
    """Name a class as a `_target_` does."""
    return f"{kind.__module__}.{kind.__qualname__}"
