"""RTPrune: relevance, kept tokens, the transport plan and what the kept tokens become."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.core.selection import top_k_selection
from learnpruner.pruners.rtprune import absorb_dropped, text_relevance

CLOSE = {"rtol": 0, "atol": 1e-5}


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    tokens, text = tensors["patch_features"][None], tensors["text_embeds"][None]
    scores = text_relevance(tokens, text, torch.ones(text.shape[:2], dtype=torch.bool))
    if "relevance" in tensors:
        torch.testing.assert_close(scores[0], tensors["relevance"], **CLOSE)
    if "keep_indices" not in tensors:
        return "relevance" in tensors
    chosen = top_k_selection(scores, torch.tensor([len(tensors["keep_indices"])]))
    assert torch.equal(chosen.index[0], tensors["keep_indices"].sort().values), "other tokens were kept"
    dropped, alpha = ~chosen.mask(tokens.shape[1]), settings.get("alpha", 0.1)
    if "pruned_indices" in tensors:
        assert torch.equal(dropped[0].nonzero()[:, 0], tensors["pruned_indices"].sort().values), "others were dropped"
    merged = absorb_dropped(tokens, chosen, dropped, alpha, settings.get("dustbin", 1.0), settings.get("iters", 100))
    assert merged.merge is not None
    if "plan" in tensors:
        torch.testing.assert_close(merged.merge[0][:, dropped[0]] / alpha, tensors["plan"], **CLOSE)
    if "merged_kept" in tensors:
        torch.testing.assert_close(merged.apply(tokens)[0], tensors["merged_kept"], **CLOSE)
    return True
