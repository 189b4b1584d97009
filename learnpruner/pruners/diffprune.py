"""DiffPrune: pruning learned as throttled information, each token blended with noise by its importance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learnpruner.core.learned_scorer import LearnedScorer
from learnpruner.core.relaxations import soft_top_k
from learnpruner.core.selection import Selection
from learnpruner.core.signals import View
from learnpruner.utils.errors import UserError

_LEAST = 1e-12  # of a share under the root, whose slope is infinite at 0


class DiffPrune(LearnedScorer):
    """Reconstruction. Scores each projected token alone: LayerNorm, then an MLP D -> D/2 -> 1, in fp32; the best stay.

    In training every token stays: sqrt(w) x + sqrt(1 - w) noise, with weights w that sum to the budget and noise of the mean
    and variance of tokens, channel by channel. The temperature of w falls from `start` to `end`.
    Paper: https://arxiv.org/abs/2605.28051. Its throttling rule; ours are the scorer, the offset that makes w meet the
    budget, the exponential course of the temperature, noise that is drawn anew for each image and step, and the trainer's loss
    (KL to the unpruned model) in place of the language-model loss. The statistics are those of all tokens seen in training:
    an image's own mean would tell what most of its tokens show, which is gone at inference. At inference the budget rules, not
    a threshold. Throttled tokens stay visible to attention, so training and inference agree only as w becomes 0 or 1; a step
    runs on all N tokens.

    Args:
        width: D of the tokens; None waits for the backbone.
        start, end: temperature at the first and the last step; higher spreads w over more tokens.
    """

    reconstruction = True
    keeps_all = True

    seen: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, width: int | None = None, start: float = 2.0, end: float = 0.1) -> None:
        super().__init__()
        if not (start > 0 and end > 0):
            raise UserError(f"start={start!r}, end={end!r} is refused: temperatures are above 0.")
        self.start, self.end = start, end
        self.temperature = start
        self.net = nn.Sequential()
        self.settle(width)

    def build(self, width: int) -> None:
        for name in (
            "seen",
            "mean",
            "variance",
        ):  # of all tokens seen in training, so that a resumed run goes on with them
            self.register_buffer(name, torch.zeros(() if name == "seen" else (width,)))
        self.net.extend([nn.LayerNorm(width), nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, 1)])

    def anneal(self, progress: float) -> None:
        self.temperature = self.start * (self.end / self.start) ** progress

    def score(self, view: View) -> Tensor:
        with torch.autocast(view.tokens.device.type, enabled=False):
            scores: Tensor = self.net(view.tokens.float())[..., 0]
        return scores

    def forward(self, view: View, keep: Tensor) -> Selection:
        if not self.training:
            return super().forward(view, keep)
        weight = soft_top_k(self.score(view) / self.temperature, keep.to(view.tokens.device), view.valid)
        index = torch.arange(weight.shape[1], device=weight.device).expand(weight.shape)
        tokens = view.tokens.float()
        self._watch(tokens.detach() if view.valid is None else tokens.detach()[view.valid])
        noise = self.mean + self.variance.sqrt() * torch.randn_like(tokens)
        return Selection(index, view.valid, values=noise_tokens(tokens, noise, weight))

    def _watch(self, tokens: Tensor) -> None:
        """Mean and variance of what was seen before and of these (..., D) together."""
        tokens = tokens.flatten(0, -2)
        share = len(tokens) / (self.seen + len(tokens))
        step = tokens.mean(0) - self.mean
        apart = tokens.var(0, correction=0) - self.variance + (1 - share) * step.square()
        self.seen += len(tokens)
        self.mean += share * step
        self.variance += share * apart


def noise_tokens(tokens: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
    """Mix tokens with noise, (B, N, D) both, by weight (B, N): sqrt(w) x + sqrt(1 - w) noise.

    That keeps the variance of independent parts.
    """
    signal, rest = weight.clamp_min(_LEAST).sqrt(), (1 - weight).clamp_min(_LEAST).sqrt()
    return signal[..., None] * tokens + rest[..., None] * noise
