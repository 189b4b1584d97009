"""The number that a run returns to a sweeper that searches for the best settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from learnpruner.utils.errors import UserError


def optimized_metric(name: str | None, results: Path, logged: Mapping[str, Any]) -> float | None:
    """Look a metric up.

    Args:
        name: dotted, in results.json (`retention`, `accuracy.mean`), or of a metric that training logs (`val/retention`);
            None asks for none.
        results: the evaluation's file.
        logged: what training logged last.

    Raises:
        UserError: where neither has it.
    """
    if name is None:
        return None
    found = dict(numbers(json.loads(results.read_text(encoding="utf-8"))))
    found |= {key: float(value) for key, value in logged.items()}
    for key in (name, f"{name}.value"):  # an interval's middle
        if key in found:
            return found[key]
    known = [key.removesuffix(".value") for key in found if not key.startswith(("baselines.", "versions."))]
    raise UserError(f"optimized_metric={name} is no number of this run; choose one of {', '.join(known)}.")


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """List dotted names and values of the numbers in nested mappings."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from numbers(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)
