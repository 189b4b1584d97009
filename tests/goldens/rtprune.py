"""RTPrune: relevance, kept tokens, the transport plan and what the kept tokens become."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.pruners.rtprune import absorb, relevance
from learnpruner.selection import top


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    tokens, text = tensors["patch_features"][None], tensors["text_embeds"][None]
    scores = relevance(tokens, text, torch.ones(text.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(scores[0], tensors["relevance"], rtol=0, atol=1e-5)
    if "keep_indices" not in tensors:
        return True
    chosen = top(scores, torch.tensor([len(tensors["keep_indices"])]))
    assert torch.equal(chosen.index[0], tensors["keep_indices"]), "other tokens were kept"
    dropped, alpha = ~chosen.mask(tokens.shape[1]), settings["alpha"]
    assert torch.equal(dropped[0].nonzero()[:, 0], tensors["pruned_indices"]), "other tokens were dropped"
    merged = absorb(tokens, chosen, dropped, alpha, settings["dustbin"], settings["iters"])
    assert merged.merge is not None
    plan = merged.merge[0][:, dropped[0]] / alpha
    torch.testing.assert_close(plan, tensors["plan"], rtol=0, atol=1e-5)
    torch.testing.assert_close(merged.apply(tokens)[0], tensors["merged_kept"], rtol=0, atol=1e-5)
    return True
