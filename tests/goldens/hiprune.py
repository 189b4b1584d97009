"""HiPrune: kept tokens from attention maps (LLaVA) or from scores (Qwen); where the authors' code fails, the right count."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from learnpruner.pruners.hiprune import hiprune


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "keep" not in settings:
        return False
    if "object_scores" in tensors:
        middle, deep = tensors["object_scores"][None], tensors["deep_scores"][None]
        width = settings["grid_w"]
    else:
        maps = (tensors["attention_object_layer"], tensors["attention_deep_layer"])  # (B, H, 1 + N, 1 + N)
        middle, deep = (attention.mean(1).mean(1)[:, 1:] for attention in maps)
        width = settings.get("grid_side", math.isqrt(middle.shape[1]))
    keep = torch.full((len(middle),), settings["keep"])
    found = hiprune(middle, deep, keep, settings["alpha"], width)
    assert found.valid is None and found.index.shape[1] == settings["keep"], "another number of tokens was kept"
    if "keep_indices" not in tensors:
        return True
    expected = tensors["keep_indices"].view(len(middle), -1)
    assert torch.equal(found.index, expected.sort(1).values), "other tokens were kept"
    return True
