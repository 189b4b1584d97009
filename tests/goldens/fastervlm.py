"""FasterVLM: scores and kept tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.pruner import View
from learnpruner.pruners.fastervlm import CLS, FasterVLM


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "keep_indices" not in tensors:
        return False
    attention = tensors["cls_attention"]
    view = View(attention.new_zeros(attention.shape[0], attention.shape[2], 1), signals={CLS: attention})
    pruner = FasterVLM()
    if "scores" in tensors:
        torch.testing.assert_close(pruner.score(view), tensors["scores"], rtol=0, atol=1e-6)
    keep = torch.full((len(attention),), settings["keep"])
    assert torch.equal(pruner(view, keep).index, tensors["keep_indices"].sort(1).values), "other tokens were kept"
    return True
