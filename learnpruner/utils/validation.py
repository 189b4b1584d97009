"""Checks of values that a user gives: each refuses with the value, the rule and the way out."""

from __future__ import annotations

from typing import Any

from learnpruner.utils.errors import UserError


def is_int(value: Any, low: int) -> bool:
    """Whether a value is a whole number of at least `low`; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def check_int(name: str, value: Any, low: int) -> None:
    """Refuse a value that is no whole number of at least `low`. name: as the user writes it, `benchmark.limit`."""
    if not is_int(value, low):
        raise UserError(f"{name} is {value!r}; it must be a whole number, {low} or more.")


def check_ints(name: str, values: Any, low: int) -> None:
    """Refuse a setting that is no list of whole numbers, or an empty one."""
    if not isinstance(values, list | tuple) or not values:
        raise UserError(f"{name} is {values!r}; give a list: {name}=[8].")
    for value in values:
        check_int(name, value, low)
