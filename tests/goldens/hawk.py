"""HAWK: scores of every normalisation, and the tokens that are kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.pruner import View
from learnpruner.pruners.hawk import HAWK, KEYS, NORMS, QUERIES, TEXT_MASK


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "selected_visual" not in tensors:
        return False
    queries, keys = tensors["query_states"], tensors["key_states"]
    pruner = HAWK(tensors["head_weights"].tolist(), next((norm for norm in NORMS if norm in name.split("_")), "l2"))
    mask = torch.ones(queries.shape[0], queries.shape[2], dtype=torch.bool)
    view = View(torch.zeros(keys.shape[0], keys.shape[2], 1), signals={QUERIES: queries, KEYS: keys, TEXT_MASK: mask})
    torch.testing.assert_close(pruner.score(view).flatten(), tensors["scores"].flatten(), rtol=0, atol=1e-5)
    kept = pruner(view, torch.tensor([settings["keep"]] * keys.shape[0])).index
    n, start, length = keys.shape[2], settings["visual_start"], settings["seq_len"]
    assert torch.equal(kept.flatten() + start, tensors["selected_visual"].flatten()), "other tokens were kept"
    left = torch.ones(length, dtype=torch.bool)
    left[start : start + n] = False
    left[kept[0] + start] = True
    assert torch.equal(left.nonzero()[:, 0], tensors["keep_sequence_indices"]), "another sequence was left"
    return True
