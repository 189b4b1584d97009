"""FasterVLM: scores and kept tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from goldens import expected
from learnpruner.core.signals import CLS_ATTENTION, View
from learnpruner.pruners.fastervlm import FasterVLM


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    attention = tensors["cls_attention"]
    rows, _, n = attention.shape
    view, pruner, kept = (
        View(attention.new_zeros(rows, n, 1), signals={CLS_ATTENTION: attention}),
        FasterVLM(),
        expected(tensors, rows),
    )
    if "scores" in tensors:
        torch.testing.assert_close(pruner.score(view), tensors["scores"], rtol=0, atol=1e-6)
    if kept is not None:
        found = pruner(view, torch.full((rows,), settings.get("keep", kept.shape[1])))
        assert torch.equal(found.index, kept), "other tokens were kept"
    return "scores" in tensors or kept is not None
