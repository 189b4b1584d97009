"""VisionSelector: a small self-attention scorer, trained through tokens that a soft top-k scales."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnpruner.core.learned_scorer import LearnedScorer
from learnpruner.core.relaxations import hard_top_k, soft_top_k
from learnpruner.core.selection import Selection
from learnpruner.core.signals import View


class VisionSelector(LearnedScorer):
    """Scores a projected token by its query's mean scaled product with all keys, in fp32; the best stay.

    In training every token stays and is multiplied by its soft top-k weight p (they sum to the budget); the loss gains
    w x BCE(p, hard top-k of the same scores), w linear from `start` to `end` over the training.
    Paper: https://arxiv.org/abs/2510.16598. As the authors: the scorer, its start near zero, original positions, only the
    scorer learns. Ours: the trainer's loss (KL to the unpruned model) in place of cross entropy on the data's answers, its
    optimizer and data, and the width of the scorer where none is given. Scaled tokens stay visible to attention, and an LLM that
    normalises its input does not feel their scale until p nears the root of its epsilon (0.003 on the embedded backbone): training
    and inference agree only as p becomes 0 or 1. A step runs on all N tokens and costs accordingly.

    Args:
        width: D of the tokens; None waits for the backbone.
        hidden: width of queries and keys, None for D / 2, as the authors' 1792 of 3584.
        start, end: w at the first and the last step; higher drives p towards 0 and 1.
    """

    keeps_all = True

    def __init__(
        self, width: int | None = None, hidden: int | None = None, start: float = 0.1, end: float = 2.0
    ) -> None:
        super().__init__()
        self.hidden, self.start, self.end = hidden, start, end
        self.weight = start
        self.query: nn.Module = nn.Identity()  # until the width is known
        self.key: nn.Module = nn.Identity()
        self.settle(width)

    def build(self, width: int) -> None:
        self.hidden = self.hidden or max(1, width // 2)
        self.query, self.key = init_near_zero(width, self.hidden), init_near_zero(width, self.hidden)

    def anneal(self, progress: float) -> None:
        self.weight = self.start + (self.end - self.start) * progress

    def score(self, view: View) -> Tensor:
        with torch.autocast(view.tokens.device.type, enabled=False):
            tokens = view.tokens.float()
            return mean_query_key_product(self.query(tokens), self.key(tokens), view.valid)

    def forward(self, view: View, keep: Tensor) -> Selection:
        if not self.training:
            return super().forward(view, keep)
        scores, keep = self.score(view), keep.to(view.tokens.device)
        soft = soft_top_k(scores, keep, view.valid)
        index = torch.arange(soft.shape[1], device=soft.device).expand(soft.shape)
        push = self.weight * binarisation_loss(soft, hard_top_k(scores, keep, view.valid), view.valid)
        return Selection(index, view.valid, values=soft[..., None] * view.tokens, losses={"bce": push})


def init_near_zero(width: int, hidden: int) -> nn.Linear:
    """Make a layer as the authors start: all tokens score almost alike."""
    layer = nn.Linear(width, hidden)
    nn.init.normal_(layer.weight, std=1e-4)
    nn.init.zeros_(layer.bias)
    return layer


def mean_query_key_product(query: Tensor, key: Tensor, valid: Tensor | None = None) -> Tensor:
    """Average q_i k_j / sqrt(h) over j: (B, N, h) twice -> (B, N). The mean of products is the product with the mean."""
    real = torch.ones_like(key[..., 0]) if valid is None else valid.to(key.dtype)
    mean = torch.einsum("bnh,bn->bh", key, real / real.sum(1, keepdim=True).clamp_min(1))
    root: float = query.shape[-1] ** 0.5
    return torch.einsum("bnh,bh->bn", query, mean) / root


def binarisation_loss(soft: Tensor, hard: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute the mean BCE of soft weights (B, N) against the hard 0/1 decision of the same scores."""
    real = torch.ones_like(soft) if valid is None else valid.to(soft.dtype)
    return F.binary_cross_entropy(soft, hard, real, reduction="sum") / real.sum()
