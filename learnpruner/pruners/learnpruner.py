"""LearnPruner's first stage: the learnable pruning module, trained by distillation."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnpruner.core.learned_scorer import LearnedScorer
from learnpruner.core.selection import Selection, from_gate, gather_tokens, top_k_selection
from learnpruner.core.signals import View
from learnpruner.utils.errors import UserError


class LearnedPruner(LearnedScorer):
    """Scores each token of the vision tower alone: LayerNorm, then an MLP D -> D/2 -> 2 (drop, keep), in fp32.

    In training mode `relaxation`, where one is set, turns logits (keep minus drop) into a gate (B, N). Otherwise the
    best tokens stay, a share of which is reserved for tokens unlike those already chosen.
    Paper: https://arxiv.org/abs/2604.23950; the LayerNorm is ours, since feature scales differ by channel.

    Args:
        width: D of the features; None waits for the backbone.
        diversity: share of the kept tokens that is chosen for diversity; more spreads them, less trusts the scores.
        diversity_in_training: choose them in training too, so that the scores learn to find what diversity does not;
            the paper has them at inference only.
    """

    uses_relaxation = True

    def __init__(self, width: int | None = None, diversity: float = 0.1, diversity_in_training: bool = False) -> None:
        super().__init__()
        if not 0 <= diversity <= 1:
            raise UserError(f"diversity={diversity!r} is refused: it is a share of the kept tokens, from 0 to 1.")
        self.diversity, self.diversity_in_training = diversity, diversity_in_training
        self.net = nn.Sequential()
        self.settle(width)

    def build(self, width: int) -> None:
        self.net.extend([nn.LayerNorm(width), nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, 2)])

    def logits(self, tokens: Tensor) -> Tensor:
        """Score keep minus drop, (B, N) fp32: the keep-probability is its sigmoid."""
        with torch.autocast(tokens.device.type, enabled=False):
            both: Tensor = self.net(tokens.float())
        drop, keep = both.unbind(-1)
        return keep - drop

    def score(self, view: View) -> Tensor:
        return self.logits(view.tokens)

    def forward(self, view: View, keep: Tensor) -> Selection:
        logits = self.score(view)
        if self.training and self.relaxation is not None:
            gate = self.relaxation(logits, keep.to(logits.device), view.valid)
            if not self.diversity_in_training:
                return from_gate(gate)
            if not self.relaxation.meets_budget:
                raise UserError(
                    "diversity_in_training needs a relaxation that keeps an exact number of tokens: use relaxation=soft_topk."
                )
            chosen = diverse_top_k(logits.detach(), view.tokens, keep, self.diversity, view.valid).mask(gate.shape[1])
            return from_gate(gate + (chosen.to(gate.dtype) - gate.detach()))  # this choice, the relaxation's gradient
        return diverse_top_k(logits, view.tokens, keep, self.diversity, view.valid)


def diverse_top_k(scores: Tensor, tokens: Tensor, keep: Tensor, share: float, valid: Tensor | None = None) -> Selection:
    """Keep the best by score, and round(share x keep) that are unlike the rest, one after the other.

    Next comes the token whose largest cosine similarity to those chosen is smallest; ties go to the lower index.

    Args:
        scores: (B, N), higher stays.
        tokens: (B, N, D), what similarity is measured on.
        keep: (B,) tokens to keep, on the CPU.
        share: of these, chosen by unlikeness, from 0 to 1; 0 is top-k by score.
        valid: (B, N) real tokens; None for all.
    """
    extra = (keep.double() * share).round().long()
    if not int(extra.max()) or int(keep.min()) >= scores.shape[1]:  # none by diversity, or all that there are
        return top_k_selection(scores, keep, valid)
    best = top_k_selection(scores, keep - extra, valid)
    kept = best.mask(scores.shape[1])
    unit = F.normalize(tokens.float(), dim=-1)
    nearest = _nearest(unit, best)
    free = torch.ones_like(kept) if valid is None else valid
    even = bool((extra == extra.max()).all())  # then nothing is copied, which would wait for the device
    left = None if even else extra.to(scores.device)[:, None]
    for step in range(int(extra.max())):
        following = nearest.masked_fill(kept | ~free, torch.inf).argmin(1, keepdim=True)  # (B, 1), the first of equals
        takes = free.gather(1, following) if left is None else (left > step) & free.gather(1, following)
        kept = kept.scatter(1, following, takes | kept.gather(1, following))
        nearest = torch.maximum(nearest, (unit @ gather_tokens(unit, following).transpose(1, 2))[..., 0])
    return replace(top_k_selection(kept.float(), keep, valid), unscored=best.unscored)


def _nearest(unit: Tensor, chosen: Selection) -> Tensor:
    """Each token's largest cosine similarity to a chosen one, (B, N); below any similarity where there is none."""
    if not chosen.index.shape[1]:
        return unit.new_full(unit.shape[:2], -2.0)
    similarity = unit @ gather_tokens(unit, chosen.index).transpose(1, 2)
    if chosen.valid is not None:
        similarity = similarity.masked_fill(~chosen.valid[:, None], -2.0)
    return similarity.amax(-1)
