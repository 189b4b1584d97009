"""Dynamic-LLaVA: a predictor that sees all visual tokens, trained through sampled masks of attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnpruner.core.learned_scorer import LearnedScorer
from learnpruner.core.selection import Selection, from_gate
from learnpruner.core.signals import View
from learnpruner.utils.errors import UserError

_HEADS, _LEAST = 8, 64


class DynamicLLaVA(LearnedScorer):
    """Dynamic-LLaVA's image predictor, in fp32: the tokens that it finds most probable stay.

    LayerNorm, D -> h with GELU, two transformer blocks, half of the channels replaced by their mean over the image, then an MLP h -> h/2 -> h/4 -> 2 (keep, drop). The most probable stay.

    In training a relaxation (the trainer's; Gumbel straight-through by default, as the authors') makes a 0/1 gate, at a
    temperature that falls exponentially from `start` to `end` times its own; the objective's budget term holds its share.
    Paper: https://arxiv.org/abs/2412.00876. A stage at 2/32 is the authors' cut; at 0, for budgets that a cut inside the LLM
    cannot have, the predictor reads the projected tokens in place of the hidden states of layer 2.
    Differs from the authors': the LLM is frozen (theirs is tuned whole); KL to the unpruned model in place of cross entropy;
    a dropped token is invisible to itself too, and nothing leaks from it (their epsilon); the predictor of output tokens,
    which thins the KV cache of long answers, is left out; blocks are pre-norm with GELU, without dropout; h is D/8 as
    theirs (512 of 4096), but at least 64.

    Args:
        width: D of the tokens; None waits for the backbone.
        start, end: factors on the relaxation's temperature.
    """

    uses_relaxation = True

    def __init__(self, width: int | None = None, start: float = 1.0, end: float = 0.1) -> None:
        super().__init__()
        if not (start > 0 and end > 0):
            raise UserError(f"start={start!r}, end={end!r} is refused: temperatures are above 0.")
        self.start, self.end = start, end
        self.temperature = start
        self.enter, self.blocks, self.decide = nn.Sequential(), nn.ModuleList(), nn.Sequential()
        self.settle(width)

    def build(self, width: int) -> None:
        h = max(_LEAST, width // 8)
        self.enter.extend([nn.LayerNorm(width), nn.Linear(width, h), nn.GELU()])
        self.blocks.extend(
            nn.TransformerEncoderLayer(h, _HEADS, 4 * h, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.decide.extend(
            [nn.Linear(h, h // 2), nn.GELU(), nn.Linear(h // 2, h // 4), nn.GELU(), nn.Linear(h // 4, 2)]
        )

    def anneal(self, progress: float) -> None:
        self.temperature = self.start * (self.end / self.start) ** progress

    def score(self, view: View) -> Tensor:
        """Score keep minus drop, (B, N) fp32: the keep-probability is its sigmoid."""
        valid = torch.ones_like(view.tokens[..., 0], dtype=torch.bool) if view.valid is None else view.valid
        first, image = distinct_rows(view.tokens, valid)
        with torch.autocast(view.tokens.device.type, enabled=False):
            return self._score(view.tokens[first].float(), None if view.valid is None else valid[first])[image]

    def _score(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        x = self.enter(tokens)
        for block in self.blocks:
            x = block(x, src_key_padding_mask=None if valid is None else ~valid)
        both: Tensor = self.decide(mix_global_half(x, valid))
        keep, drop = both.unbind(-1)
        return keep - drop

    def forward(self, view: View, keep: Tensor) -> Selection:
        if not self.training or self.relaxation is None:
            return super().forward(view, keep)
        relaxation = self.relaxation.cooled(self.temperature)
        return from_gate(relaxation(self.score(view), keep.to(view.tokens.device), view.valid))


def distinct_rows(tokens: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Find the rows (B, N, D) that are not the row before them again, (I,), and which of them each row is, (B,).

    The questions of an image follow each other in training: its tokens are scored once for all of them.
    """
    alike = (tokens[1:] == tokens[:-1]).flatten(1).all(1) & (valid[1:] == valid[:-1]).all(1)
    new = F.pad(~alike, (1, 0), value=True)
    return new.nonzero()[:, 0], new.cumsum(0) - 1


def mix_global_half(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """Replace the second half of the channels by their mean over the tokens: (B, N, h) -> (B, N, h)."""
    local, other = x.chunk(2, -1)
    real = torch.ones_like(x[..., :1]) if valid is None else valid[..., None].to(x.dtype)
    mean = (other * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp_min(1)
    return torch.cat([local, mean.expand_as(other)], -1)
