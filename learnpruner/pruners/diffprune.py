"""DiffPrune: pruning learned as throttled information, each token blended with noise by its importance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learnpruner.pruner import ScorePruner, View
from learnpruner.relaxation import soft_top
from learnpruner.selection import Selection

LEAST = 1e-12  # of a share under the root, whose slope is infinite at 0


class DiffPrune(ScorePruner):
    """Reconstruction. Scores each projected token alone: LayerNorm, then an MLP D -> D/2 -> 1, in fp32; the best stay.

    In training every token stays: sqrt(w) x + sqrt(1 - w) noise, with weights w that sum to the budget and noise of the mean
    and variance of the image's tokens, channel by channel. The temperature of w falls from `start` to `end`.
    Paper: https://arxiv.org/abs/2605.28051. Its throttling rule; ours are the scorer, the offset that makes w meet the
    budget, the exponential course of the temperature, noise that is drawn anew for each image and step, and the trainer's loss
    (KL to the unpruned model) in place of the language-model loss. At inference the budget rules, not a threshold. Throttled
    tokens stay visible to attention, so training and inference agree only as w becomes 0 or 1; a step runs on all N tokens.

    width: D of the tokens; None waits for the backbone. start, end: temperature at the first and the last step; higher
    spreads w over more tokens.
    """

    reconstruction = True
    keeps_all = True

    def __init__(self, width: int | None = None, start: float = 2.0, end: float = 0.1) -> None:
        super().__init__()
        if not (start > 0 and end > 0):
            raise ValueError(f"start={start!r}, end={end!r} is refused: temperatures are above 0.")
        self.width, self.start, self.end = width, start, end
        self.temperature = start
        self.net = nn.Sequential()
        if width is not None:
            self._build(width)

    def _build(self, width: int) -> None:
        self.width = width
        self.net.extend([nn.LayerNorm(width), nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, 1)])

    def prepare(self, width: int) -> None:
        if self.width is None:
            self._build(width)
        if self.width != width:
            raise ValueError(f"This pruner was made for tokens of width {self.width}, the backbone has {width}.")

    def anneal(self, progress: float) -> None:
        self.temperature = self.start * (self.end / self.start) ** progress

    def score(self, view: View) -> Tensor:
        with torch.autocast(view.tokens.device.type, enabled=False):
            scores: Tensor = self.net(view.tokens.float())[..., 0]
        return scores

    def forward(self, view: View, keep: Tensor) -> Selection:
        if not self.training:
            return super().forward(view, keep)
        weight = soft_top(self.score(view) / self.temperature, keep.to(view.tokens.device), view.valid)
        index = torch.arange(weight.shape[1], device=weight.device).expand(weight.shape)
        tokens = view.tokens.float()
        return Selection(index, view.valid, values=throttle(tokens, noise_like(tokens, view.valid), weight))


def throttle(tokens: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
    """sqrt(w) x + sqrt(1 - w) noise: tokens, noise (B, N, D), weight (B, N). Keeps the variance of independent parts."""
    signal, rest = weight.clamp_min(LEAST).sqrt(), (1 - weight).clamp_min(LEAST).sqrt()
    return signal[..., None] * tokens + rest[..., None] * noise


def noise_like(tokens: Tensor, valid: Tensor | None = None) -> Tensor:
    """Normal noise with the mean and the variance of each image's tokens in every channel: (B, N, D)."""
    real = torch.ones_like(tokens[..., :1]) if valid is None else valid[..., None].to(tokens.dtype)
    count = real.sum(1, keepdim=True).clamp_min(1)
    mean = (tokens * real).sum(1, keepdim=True) / count
    variance = ((tokens - mean).square() * real).sum(1, keepdim=True) / count
    return mean + variance.sqrt() * torch.randn_like(tokens)
