"""AOT: anchors by attention, and optimal transport that merges the other tokens into them, within and across frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.pruner import Pruner
from learnpruner.core.selection import Selection, gather_tokens, top_k_selection
from learnpruner.core.signals import Signal, View
from learnpruner.pruners._aot_video import merge_video, video_budget
from learnpruner.pruners._sinkhorn import SINKHORN_EPS, SINKHORN_STEPS, SINKHORN_STOP, cosine_matrix, sinkhorn

_SPATIAL, _HARD = 0.5, 0.1  # weight of the distance in the image; share of the nearest-anchor average


class AOT(Pruner):
    """Keeps anchors, local and global ones, into which the other tokens are transported.

    Half of a frame's anchors are the best of each window in a shallow layer of the vision tower, half the best of the
    whole frame in the layer whose output the projector reads; the other tokens are transported into them. In a video,
    the frames of a segment are merged into its first, but for the dynamic tokens, which find no anchor alike.

    Paper: https://arxiv.org/abs/2603.01400, code: https://github.com/TyroneLi/AOT. Differences: iterations stop for
    each image alone; anchors of both kinds never coincide, the global ones come second; where a budget doesn't divide
    by the windows, these compete by score; the first frame absorbs one frame after the other. The plan's budget rules:
    the anchors of a video's frames are as many as leave `dynamic` of every later frame, and what is left goes to the
    later frames. The stop across frames is on the change of eps log u, which the vectors of the authors' code agree
    with; it was not published. A prompt with several images is a video.

    Args:
        attention: "cls_attention", or "received_attention" for towers without [CLS], as in the authors' models.
        windows: cells along a side of the image.
        global_share: of the anchors.
        segment: frames that share anchors (authors: 4 of 32 frames, 8 of 64).
        dynamic: share of a later frame's anchors that stay; higher merges less across frames.
        batch_stop: iterations stop on the mean over the batch, as in the authors' code; images then depend on each
            other.
    """

    joint = True
    fallback = "on single images its spatial part alone"  # said in tables, whose benchmark shows no videos

    def __init__(
        self,
        attention: str = "cls_attention",
        windows: int = 3,
        global_share: float = 0.5,
        segment: int = 4,
        dynamic: float = 0.3,
        batch_stop: bool = False,
    ) -> None:
        super().__init__()
        self.attention, self.windows, self.global_share = attention, windows, global_share
        self.segment, self.dynamic, self.batch_stop = segment, dynamic, batch_stop
        self._shallow, self._deep = Signal(attention, "6/27"), Signal(attention)
        self.needs = frozenset({self._shallow, self._deep})

    def forward(self, view: View, keep: Tensor) -> Selection:
        frames, grid = view.frames, view.plane("AOT")
        rows, n = view.tokens.shape[0], view.tokens.shape[1] // frames
        valid = None if view.valid is None else view.valid.reshape(rows * frames, n)
        sizes = [[n] * frames] * rows if valid is None else valid.sum(1).view(rows, frames).tolist()
        budgets = [
            video_budget(total, size, self.segment, self.dynamic)
            for total, size in zip(keep.tolist(), sizes, strict=True)
        ]
        tokens = view.tokens.reshape(rows * frames, n, -1)
        count = torch.tensor([count for anchors, _ in budgets for count in anchors])
        kept = self._anchors(view, count, valid, grid)
        weights = intra_weights(tokens, kept, grid, valid=valid, together=self.batch_stop)
        if frames == 1:
            return Selection(kept.index, kept.valid, merge=weights)
        return self._across(tokens.view(rows, frames, n, -1), kept, weights, [stay for _, stay in budgets])

    def _anchors(self, view: View, count: Tensor, valid: Tensor | None, grid: tuple[int, int]) -> Selection:
        """`count` (rows x frames,) anchors of each frame."""
        n = grid[0] * grid[1]
        shallow, deep = (_mean(view[signal]).reshape(-1, n) for signal in (self._shallow, self._deep))
        edge = math.ceil(max(grid) / self.windows)
        everywhere = (count * self.global_share).floor().long()
        local = top_k_selection(window_ranks(shallow, grid, edge, valid), count - everywhere, valid).mask(n)
        return top_k_selection(deep.float().masked_fill(local, torch.inf), count, valid)

    def _across(self, tokens: Tensor, kept: Selection, weights: Tensor, stay: Sequence[Sequence[int]]) -> Selection:
        """Merge across the frames of each row; tokens (R, T, N, D), kept and weights over R x T frames."""
        rows, frames = tokens.shape[:2]
        real = torch.ones_like(kept.index, dtype=torch.bool) if kept.valid is None else kept.valid
        each = [(index[on], rows_[on]) for index, rows_, on in zip(kept.index, weights, real, strict=True)]
        merged = [
            merge_video(tokens[r].float(), each[r * frames : (r + 1) * frames], stay[r], self.segment)
            for r in range(rows)
        ]
        most = max(len(index) for index, _ in merged)
        index = torch.stack([F.pad(index, (0, most - len(index))) for index, _ in merged])
        valid = torch.arange(most, device=index.device) < index.new_tensor([len(i) for i, _ in merged])[:, None]
        merge = torch.stack([F.pad(rows_, (0, 0, 0, most - len(rows_))) for _, rows_ in merged])
        return Selection(index, None if bool(valid.all()) else valid, merge=merge)


def _mean(attention: Tensor) -> Tensor:
    """Head mean, where there are heads: (B, H, N) or (B, N) -> (B, N)."""
    return attention.float().mean(1) if attention.dim() == 3 else attention.float()


def window_ranks(scores: Tensor, grid: tuple[int, int], edge: int, valid: Tensor | None = None) -> Tensor:
    """Score tokens such that windows of edge x edge patches take turns.

    The best of every window come first, then the second best, and so on; within a turn the higher score leads.

    Args:
        scores: (B, N), higher is better.
        grid: (H, W) of the patches.
        edge: patches along a side of a window.
        valid: (B, N) real tokens; None for all.

    Returns:
        (B, N), higher stays.
    """
    row, column = torch.arange(grid[0]) // edge, torch.arange(grid[1]) // edge
    window = (row[:, None] * (int(column[-1]) + 1) + column).flatten().to(scores.device)
    if valid is not None:
        scores = scores.masked_fill(~valid, -torch.inf)
    order = scores.float().sort(dim=1, descending=True, stable=True).indices
    turn = F.one_hot(window[order]).cumsum(1).gather(2, window[order][..., None])[..., 0]
    order = order.gather(1, turn.sort(dim=1, stable=True).indices)
    places = torch.arange(order.shape[1], 0, -1, device=order.device, dtype=torch.float32)
    return torch.zeros_like(scores, dtype=torch.float32).scatter(1, order, places.expand(order.shape))


def intra_weights(
    tokens: Tensor, kept: Selection, grid: tuple[int, int], eps: float = SINKHORN_EPS, steps: int = SINKHORN_STEPS, stop: float = SINKHORN_STOP,
    spatial: float = _SPATIAL, hard: float = _HARD, valid: Tensor | None = None, together: bool = False,
) -> Tensor:  # fmt: skip
    """Compute what each of the kept tokens becomes.

    The dropped are transported into the kept at the cost of 1 - cosine + spatial x distance (sides of the image are 1);
    a kept token is the mean of itself and what it received, weighted by mass, but for `hard` of the plain mean of itself
    and those that it is the nearest to by cosine.

    Args:
        tokens: (B, N, D).
        kept: K of them.
        grid: (H, W) of the patches.
        eps: weight of the entropy; higher spreads a dropped token over more kept ones.
        steps: Sinkhorn iterations at most.
        stop: change of u below which they end.
        spatial: weight of the distance in the image.
        hard: share of the plain mean.
        valid: (B, N) real tokens; None for all.
        together: whether the iterations end for the batch as a whole.

    Returns:
        Weight rows (B, K, N).
    """
    n, index = tokens.shape[1], kept.index
    real = torch.ones_like(index, dtype=torch.bool) if kept.valid is None else kept.valid
    source = ~kept.mask(n) if valid is None else valid & ~kept.mask(n)
    alike = cosine_matrix(tokens, gather_tokens(tokens, index))
    places = torch.cartesian_prod(torch.linspace(0, 1, grid[0]), torch.linspace(0, 1, grid[1])).to(alike)
    cost = 1 - alike + spatial * torch.cdist(places, places)[:, index].transpose(0, 1)
    a, b = (part.float() / part.sum(1, keepdim=True).clamp_min(1) for part in (source, real))
    plan = sinkhorn(cost, a, b, eps, steps, stop, together)
    nearest = alike.masked_fill(~real[:, None], -torch.inf).argmax(-1, keepdim=True)
    nearest = torch.zeros_like(plan).scatter(2, nearest, source.to(plan)[..., None])
    own = F.one_hot(index, n).to(plan) * real[..., None]
    soft, plain = ((own + part.transpose(1, 2)) / (1 + part.sum(1)[..., None]) for part in (plan, nearest))
    return soft + hard * (plain - soft)
