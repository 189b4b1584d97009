"""VisionSelector: the scorer, and soft top-k with its gradient and its BCE against the hard decision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.core.relaxations import hard_top_k, soft_top_k
from learnpruner.core.signals import View
from learnpruner.pruners.visionselector import VisionSelector, binarisation_loss

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "q_weight" in tensors and "scores" in tensors:
        scorer(tensors)
    elif "soft_mask" in tensors or "hard_mask" in tensors:
        soft_topk(tensors, settings)
    else:
        return False
    return True


def scorer(tensors: dict[str, Tensor]) -> None:
    hidden, width = tensors["q_weight"].shape
    pruner = VisionSelector(width, hidden)
    with torch.no_grad():
        for layer, letter in ((pruner.query, "q"), (pruner.key, "k")):
            layer.weight.copy_(tensors[f"{letter}_weight"])
            layer.bias.copy_(tensors[f"{letter}_bias"])
    found = pruner.score(View(tensors["features"]))
    torch.testing.assert_close(found, tensors["scores"], **CLOSE, msg=lambda m: f"scores: {m}")


def soft_topk(tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    scores = tensors["scores"].requires_grad_()
    keep = torch.full((len(scores),), settings["k"])
    soft, hard = soft_top_k(scores, keep), hard_top_k(scores.detach(), keep)
    found = {"soft_mask": soft, "hard_mask": hard, "bce_to_hard": binarisation_loss(soft, hard)}
    if "upstream_grad" in tensors:
        (found["grad_scores"],) = torch.autograd.grad(soft, scores, tensors["upstream_grad"])
    for key, value in found.items():
        if key in tensors:
            torch.testing.assert_close(value, tensors[key], **CLOSE, msg=lambda m, key=key: f"{key}: {m}")
