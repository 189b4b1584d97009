"""DivPrune: the order in which tokens are chosen, and those kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from goldens import expected
from learnpruner.core.signals import View
from learnpruner.pruners.divprune import DivPrune, max_min_order


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    tokens, order = tensors["features"], tensors.get("selection_order")
    rows, n = tokens.shape[:2]
    kept = expected(tensors, rows)
    if order is not None:
        order = order.view(rows, -1)
        assert torch.equal(max_min_order(tokens, order.shape[1]), order), "tokens were chosen in another order"
    if kept is not None:
        count = settings.get("keep", round(n * settings["ratio"]) if "ratio" in settings else kept.shape[1])
        found = DivPrune()(View(tokens), torch.full((rows,), count))
        assert torch.equal(found.index, kept), "other tokens were kept"
    return order is not None or kept is not None
