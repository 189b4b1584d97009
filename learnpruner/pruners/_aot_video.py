"""AOT on videos: how many tokens each frame keeps, and what a segment's first frame takes in of the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.selection import top_k_selection
from learnpruner.pruners._sinkhorn import SINKHORN_EPS, SINKHORN_STEPS, SINKHORN_STOP, cosine_matrix, sinkhorn

_SIGMA, _SCALE = 1.5, 1.0  # frames over which time begins to cost; size of that cost
FrameAnchors = tuple[Tensor, Tensor]  # index (A,) of a frame's anchors, and the weight rows (A, N) that make them


def quantile_count(share: float, n: int) -> int:
    """Count how many of n distinct values lie below their quantile at `share`."""
    return math.ceil(round(share * (n - 1), 6))


def video_budget(total: int, sizes: Sequence[int], segment: int, dynamic: float) -> tuple[list[int], list[int]]:
    """Share a budget out over the frames of a video.

    Args:
        total: tokens of the video that stay.
        sizes: tokens of each frame, 0 where there is none.
        segment: frames of a segment, the first of which keeps all its anchors.
        dynamic: share of a later frame's anchors that stay.

    Returns:
        Anchors of each frame, and how many of its tokens stay; the latter sum to `total`.
    """
    real = [f for f, size in enumerate(sizes) if size]
    first, later = [f for f in real if f % segment == 0], [f for f in real if f % segment]

    def wanted(anchors: int) -> list[int]:
        counts = [quantile_count(dynamic, anchors) if f % segment else anchors for f in range(len(sizes))]
        return [min(count, size) for count, size in zip(counts, sizes, strict=True)]

    total = min(total, sum(sizes))
    anchors = max((a for a in range(1, max(sizes) + 1) if sum(wanted(a)) <= total), default=1)
    stay = wanted(anchors)
    _adjust(stay, first, total, [0] * len(sizes))
    for group, most in ((later, anchors), (first, max(sizes)), (later, max(sizes))):
        _adjust(stay, group, total, [min(most, size) for size in sizes])
    return [max(min(anchors, size), s) for size, s in zip(sizes, stay, strict=True)], stay


def _adjust(counts: list[int], group: Iterable[int], total: int, limits: Sequence[int]) -> None:
    """Move the counts of a group towards their limits, by turns, until all sum to `total`."""
    group, missing = list(group), total - sum(counts)
    while missing:
        moved = [f for f in group if (limits[f] - counts[f]) * missing > 0][: abs(missing)]
        if not moved:
            return
        for f in moved:
            counts[f] += 1 if missing > 0 else -1
        missing = total - sum(counts)


def time_plan(
    anchors: Tensor, sources: Tensor, dt: int, eps: float = SINKHORN_EPS, sigma: float = _SIGMA, scale: float = _SCALE,
    steps: int = SINKHORN_STEPS, stop: float = SINKHORN_STOP, together: bool = False,
) -> Tensor:  # fmt: skip
    """Transport a later frame's tokens to a segment's anchors.

    The cost is 1 - cosine, times scale (1 - exp(-dt^2 / 2 sigma^2)).

    Args:
        anchors: (B, A, D).
        sources: (B, S, D) the later frame's tokens.
        dt: frames between them; more cost more.
        eps: weight of the entropy; higher spreads a token over more anchors.
        sigma: in frames; higher makes the cost rise later.
        scale: of the cost, far away in time.
        steps: Sinkhorn iterations at most.
        stop: change below which they end.
        together: whether they end for the batch as a whole.

    Returns:
        The plan, (B, S, A).
    """
    cost = (1 - cosine_matrix(sources, anchors)) * scale * (1 - math.exp(-(dt**2) / (2 * sigma**2)))
    a, b = (torch.full_like(x[..., 0], 1 / x.shape[1], dtype=torch.float32) for x in (sources, anchors))
    return sinkhorn(cost, a, b, eps, steps, stop, together, in_logs=True)


def dynamic_tokens(plan: Tensor, count: int) -> Tensor:
    """Find the `count` sources whose largest share of a plan (B, S, A) is smallest: they find no anchor alike; (B, S) bool."""
    return top_k_selection(-plan.amax(-1), torch.tensor([count] * plan.shape[0])).mask(plan.shape[1])


def absorb_sources(anchors: Tensor, sources: Tensor, plan: Tensor, stay: Tensor) -> Tensor:
    """Average anchors (B, A, D) with the sources (B, S, D) that don't `stay` (B, S), each taken in whole, by the plan (B, S, A)."""
    share = plan / plan.sum(-1, keepdim=True) * ~stay[..., None]
    return (anchors + share.transpose(1, 2) @ sources) / (1 + share.sum(1)[..., None])


def merge_video(tokens: Tensor, frames: Sequence[FrameAnchors], stay: Sequence[int], segment: int) -> FrameAnchors:
    """Merge the frames of one video.

    Args:
        tokens: (T, N, D), all its tokens.
        frames: each frame's anchors.
        stay: how many of them stay.
        segment: frames of a segment, whose later frames are transported into the first's anchors.

    Returns:
        The index (K,) of what stays among all T x N, in reading order, and its weight rows.
    """
    n = tokens.shape[1]
    wide = [F.pad(rows, (f * n, (len(frames) - 1 - f) * n)) for f, (_, rows) in enumerate(frames)]
    found = [rows @ x for (_, rows), x in zip(frames, tokens, strict=True)]
    places, kept = [], []
    for f, (index, _) in enumerate(frames):
        start = f - f % segment
        stays = torch.ones_like(index, dtype=torch.bool)
        if f != start and len(index) and len(found[start]):
            plan = time_plan(found[start][None], found[f][None], f - start)
            stays = dynamic_tokens(plan, stay[f])[0]
            found[start] = absorb_sources(found[start][None], found[f][None], plan, stays[None])[0]
            wide[start] = absorb_sources(wide[start][None], wide[f][None], plan, stays[None])[0]
        places.append(index[stays] + f * n)
        kept.append(stays)
    return torch.cat(places), torch.cat([rows[on] for rows, on in zip(wide, kept, strict=True)])
