"""VisPruner: important and diverse tokens; where the authors' code fails, the right count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from goldens import expected
from learnpruner.core.signals import View
from learnpruner.pruners.vispruner import _SALIENCY, VisPruner


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    attention, features = tensors["cls_attention"], tensors["features"]
    kept = expected(tensors, len(features))
    if kept is None and "keep" not in settings:
        return False
    keep = settings["keep"] if kept is None else settings.get("keep", kept.shape[1])
    view = View(features, signals={_SALIENCY["cls"]: attention})
    found = VisPruner(settings.get("important_ratio", 0.5)).choose(view, keep).index
    if kept is None:
        assert all(len(set(row.tolist())) == keep for row in found), f"not {keep} different tokens were kept"
        return True
    assert torch.equal(found, kept), "other tokens were kept"
    return True
