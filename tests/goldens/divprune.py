"""DivPrune: the order in which tokens are chosen, and those kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.pruner import View
from learnpruner.pruners.divprune import DivPrune, max_min


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "keep_indices" not in tensors:
        return False
    tokens, keep = tensors["features"], settings["keep"]
    if "selection_order" in tensors:
        assert torch.equal(max_min(tokens, keep), tensors["selection_order"]), "tokens were chosen in another order"
    found = DivPrune()(View(tokens), torch.full((len(tokens),), keep))
    assert torch.equal(found.index, tensors["keep_indices"].sort(1).values), "other tokens were kept"
    return True
