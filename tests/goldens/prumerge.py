"""PruMerge and PruMerge+: kept tokens in their order, and what they become; given counts and counts by outliers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.engine.tower import joined_cls_row
from learnpruner.pruner import View
from learnpruner.pruners.prumerge import CLS, KEYS, PruMerge, gather_in
from learnpruner.pruners.prumerge_plus import PruMergePlus, chosen


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "tokens" not in tensors:
        return False
    adaptive = "adaptive" in name
    query, keys, tokens = tensors["query_proj"][:, None], tensors["key_proj"][:, None], tensors["features"]
    attention = joined_cls_row(query, keys)
    view = View(tokens, signals={CLS: attention, KEYS: keys[:, :, 1:]})
    if "_img" in name:
        image = int(name.rpartition("_img")[2])
        view = View(
            tokens[image : image + 1], signals={s: value[image : image + 1] for s, value in view.signals.items()}
        )
    rows, n = view.tokens.shape[:2]
    attended = torch.full((rows,), int(n * settings["ratio"]))
    if adaptive:
        pruner = PruMergePlus(adaptive) if "plus" in name else PruMerge(adaptive, batchwise="_img" not in name)
        found = pruner(view, torch.full((rows,), n))
    elif "plus" in name:  # how many there are follows from the ratio: the stride may meet tokens that are kept already
        kept = chosen(view[CLS], attended, tensors["tokens"].shape[1] - 1)
        found = gather_in(kept, view[CLS], view[KEYS], in_place=False)
    else:
        found = PruMerge()(view, attended + 1)
    torch.testing.assert_close(found.apply(view.tokens), tensors["tokens"], rtol=0, atol=2e-5)
    if "kept_topk_indices" in tensors:
        order = view[CLS].sort(dim=1, descending=True, stable=True).indices
        listed = tensors["kept_topk_indices"]
        assert torch.equal(order[:, : listed.shape[1]], listed), "the attention orders tokens otherwise"
    return True
