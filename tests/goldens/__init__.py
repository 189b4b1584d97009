"""How each method is held against golden vectors: one module a file, named after it, with

    def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool

which raises AssertionError where the method differs, returns True where it compared, False where a case only holds inputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def expected(tensors: Mapping[str, Tensor], rows: int) -> Tensor | None:
    """The tokens that a case keeps, (rows, K) ascending, from `keep_indices` or `keep_mask`; None where it says neither."""
    index, mask = tensors.get("keep_indices"), tensors.get("keep_mask")
    masked = None if mask is None else mask.view(rows, -1).nonzero()[:, 1]
    if index is None:
        return None if masked is None else masked.view(rows, -1)
    index = index.view(rows, -1).sort(1).values
    assert masked is None or torch.equal(index.flatten(), masked), "keep_mask and keep_indices name other tokens"
    return index


def grid(name: str, settings: Mapping[str, Any], n: int) -> tuple[int, int]:
    """(H, W) of n patches: as the case says, in its settings or its name; a square where it does not."""
    if "grid_w" in settings:
        return n // settings["grid_w"], settings["grid_w"]
    said = re.search(r"(\d+)x(\d+)", name)
    if said and int(said[1]) * int(said[2]) == n:
        return int(said[1]), int(said[2])
    side = settings.get("grid_side", math.isqrt(n))
    return n // side, side
