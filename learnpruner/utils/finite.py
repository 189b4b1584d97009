"""Weights with values that are not finite are neither written nor read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from learnpruner.utils.errors import UserError


def check_finite(weights: Mapping[str, Any], what: str) -> None:
    """Refuse weights that hold inf or nan.

    Args:
        weights: by name; what is no tensor of floating point is passed over.
        what: how the sentence begins, such as "PATH is not written".

    Raises:
        UserError: where they do.
    """
    for name, value in weights.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(
                f"{what}: {name} holds values that are not finite, from a training that diverged; train again with a "
                "lower optimizer.lr, or take an earlier checkpoint or export."
            )


def finite_or_none(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Replace numbers that are not finite by None, which JSON can hold."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metrics.items()
    }
