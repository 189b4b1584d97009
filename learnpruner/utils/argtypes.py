"""The command lines of the smaller programs: bad numbers, and files that cannot be read, end in one sentence."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager

from learnpruner.utils.errors import UserError


@contextmanager
def exit_on_bad_input(parser: ArgumentParser) -> Iterator[None]:
    """End the program as a bad argument does where something is refused inside the block."""
    try:
        yield
    except UserError as error:
        parser.error(" ".join(str(error).split()))


def positive_int(text: str) -> int:
    """Read a whole number, 1 or more."""
    return _whole(text, 1)


def non_negative_int(text: str) -> int:
    """Read a whole number, 0 or more."""
    return _whole(text, 0)


def positive_float(text: str) -> float:
    """Read a finite number above 0."""
    return _number(text, math.inf, "a number above 0")


def unit_fraction(text: str) -> float:
    """Read a number above 0, at most 1."""
    return _number(text, 1.0, "a share, above 0 and at most 1")


def _whole(text: str, low: int) -> int:
    if not text.isdecimal() or int(text) < low:
        raise ArgumentTypeError(f"{text!r} is refused; give a whole number, {low} or more.")
    return int(text)


def _number(text: str, most: float, rule: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and 0 < value <= most):
        raise ArgumentTypeError(f"{text!r} is refused; give {rule}.")
    return value
