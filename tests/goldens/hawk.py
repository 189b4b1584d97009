"""HAWK: scores of every normalisation, and the tokens that are kept."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from learnpruner.core.signals import TEXT_MASK, TEXT_QUERIES, TOKEN_KEYS, View
from learnpruner.pruners.hawk import _NORMS, HAWK


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "selected_visual" not in tensors and "scores" not in tensors:
        return False
    queries, keys = tensors["query_states"], tensors["key_states"]
    rows, _, n, _ = keys.shape
    said = [*name.split("_"), str(settings.get("norm", "l2"))]
    pruner = HAWK(tensors["head_weights"].tolist(), next(norm for norm in said if norm in _NORMS))
    mask = torch.ones(rows, queries.shape[2], dtype=torch.bool)
    view = View(torch.zeros(rows, n, 1), signals={TEXT_QUERIES: queries, TOKEN_KEYS: keys, TEXT_MASK: mask})
    if "scores" in tensors:
        torch.testing.assert_close(pruner.score(view), tensors["scores"].view(rows, n), rtol=0, atol=1e-5)
    if "selected_visual" not in tensors:
        return True
    count = settings["keep"] if "keep" in settings else max(1, math.ceil(n * settings["keep_ratio"]))
    start = settings.get("visual_start", 0)
    kept = pruner(view, torch.full((rows,), count)).index + start
    assert torch.equal(kept, tensors["selected_visual"].view(rows, -1).sort(1).values), "other tokens were kept"
    if "keep_sequence_indices" in tensors:
        left = torch.ones(rows, settings["seq_len"], dtype=torch.bool)
        left[:, start : start + n] = False
        left = left.scatter(1, kept, True).nonzero()[:, 1].view(rows, -1)
        assert torch.equal(left, tensors["keep_sequence_indices"].view(rows, -1)), "another sequence was left"
    return True
