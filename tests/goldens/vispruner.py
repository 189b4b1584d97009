"""VisPruner: important and diverse tokens; where the authors' code fails, the right count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.pruners.vispruner import vispruner


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "keep" not in settings:
        return False
    keep = settings["keep"]
    found = vispruner(tensors["cls_attention"].mean(1), tensors["features"], keep, settings["important_ratio"])
    if "keep_indices" not in tensors:
        assert all(len(set(row.tolist())) == keep for row in found), f"not {keep} different tokens were kept"
        return True
    assert torch.equal(found, tensors["keep_indices"].sort(1).values), "other tokens were kept"
    return True
