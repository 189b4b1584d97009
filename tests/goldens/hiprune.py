"""HiPrune: kept tokens from attention maps (LLaVA) or from scores (Qwen); where the authors' code fails, the right count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from goldens import expected, grid
from learnpruner.pruners.hiprune import hiprune_selection


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "keep" not in settings and "retention" not in settings:
        return False
    middle, deep = (scores(tensors, kind) for kind in ("object", "deep"))
    rows, n = middle.shape
    count = settings.get("keep", round(n * settings.get("retention", 1.0)))
    keep, width = torch.full((rows,), count), grid(name, settings, n)[1]
    found = hiprune_selection(middle, deep, keep, settings.get("alpha", 0.1), width)
    assert found.valid is None and found.index.shape[1] == count, "another number of tokens was kept"
    kept = expected(tensors, rows)
    assert kept is None or torch.equal(found.index, kept), "other tokens were kept"
    return True


def scores(tensors: dict[str, Tensor], kind: str) -> Tensor:
    """What each patch receives in the object or the deep layer, (B, N): as scores, or from maps (B, H, 1 + N, 1 + N)."""
    if f"{kind}_scores" in tensors:
        given = tensors[f"{kind}_scores"]
        return given.view(-1, given.shape[-1])
    return tensors[f"attention_{kind}_layer"].mean(1).mean(1)[:, 1:]
