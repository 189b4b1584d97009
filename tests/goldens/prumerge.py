"""PruMerge and PruMerge+: kept tokens in their order, and what they become; given counts and counts by outliers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.core.signals import View
from learnpruner.engine.vision_signals import joined_cls_row
from learnpruner.pruners.prumerge import _NEIGHBOURS, LAST_CLS_ROW, LAST_KEYS, PruMerge, merge_into_kept, outlier_count
from learnpruner.pruners.prumerge_plus import PruMergePlus, order_by_attention_and_stride


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "tokens" not in tensors:
        return False
    view, expected = shown(name, tensors), tensors["tokens"]
    rows, n = view[LAST_CLS_ROW].shape
    plus, adaptive, ratio = "plus" in name, "adaptive" in name, settings["ratio"]
    if adaptive:
        found = outlier_count(view[LAST_CLS_ROW], batchwise=True)  # as the authors count
        assert (found == int(n * ratio + 1e-4)).all(), f"{found.tolist()} outliers, not {n * ratio:g}"
    # Of a plus case the count follows from the ratio: the stride may meet tokens that are kept already.
    kept = order_by_attention_and_stride(
        view[LAST_CLS_ROW], torch.full((rows,), int(n * ratio)), expected.shape[1] - 1, ratio if plus else 1.0
    )
    merged = merge_into_kept(kept, view[LAST_CLS_ROW], view[LAST_KEYS], False, settings.get("cluster_k", _NEIGHBOURS))
    read = pad(merged.apply(view.tokens), expected.shape[1])
    torch.testing.assert_close(read, expected, rtol=0, atol=2e-5)
    if "cluster_k" not in settings or settings["cluster_k"] == _NEIGHBOURS:
        by_class(view, expected, plus, adaptive)
    if "kept_topk_indices" in tensors:
        listed = tensors["kept_topk_indices"]
        assert torch.equal(kept[:, : listed.shape[1]], listed), "the attention orders tokens otherwise"
    return True


def shown(name: str, tensors: dict[str, Tensor]) -> View:
    """The case's images, or the one that it is about."""
    query, keys, tokens = tensors["query_proj"][:, None], tensors["key_proj"][:, None], tensors["features"]
    only = slice(None)
    if "_img" in name and tokens.shape[0] > 1:
        number = int("".join(filter(str.isdigit, name.rpartition("_img")[2])))
        only = slice(number, number + 1)
    return View(tokens[only], signals={LAST_CLS_ROW: joined_cls_row(query, keys)[only], LAST_KEYS: keys[only, :, 1:]})


def by_class(view: View, expected: Tensor, plus: bool, adaptive: bool) -> None:
    """The pruners themselves, by their own count or by that of the case."""
    (rows, n), count = view[LAST_CLS_ROW].shape, expected.shape[1]
    if (plus and rows > 1) or (not adaptive and (plus or count > n)):
        return  # the authors' stride is for one image; its own count meets the budget; a budget of all merges nothing
    pruner = (PruMergePlus if plus else PruMerge)(adaptive, batchwise=True)
    found = pruner(view, torch.full((rows,), n if adaptive else count))
    torch.testing.assert_close(pad(found.apply(view.tokens), count), expected, rtol=0, atol=2e-5)


def pad(tokens: Tensor, count: int) -> Tensor:
    """The authors append the sum over what is dropped where nothing is, too: a zero, for which we have no slot."""
    return torch.cat([tokens, tokens.new_zeros(len(tokens), count - tokens.shape[1], tokens.shape[2])], 1)
