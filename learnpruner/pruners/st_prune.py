"""ST-Prune: diverse tokens over the frames and cameras of a driving scene."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.pruner import Pruner
from learnpruner.core.selection import Selection, gather_tokens, top_k_selection
from learnpruner.core.signals import View
from learnpruner.utils.errors import UserError

_STILL = 1e-2  # below this change (1 - cosine) a row does not move: rounding must not count as motion
_ALL_PAIRS = 2048  # up to so many tokens all similarities are computed at once; a video has too many for that


class STPrune(Pruner):
    """Reconstruction: tokens are chosen one after the other, each the furthest from those chosen before.

    Motion and recency count as soft weights over frames, and tokens that two adjacent cameras both see lie closer together.

    Paper: https://arxiv.org/abs/2604.19145, of which the abstract alone was at hand; it names these parts. Ours:
    distance is 1 - cosine; the next token has the largest weight x distance to its nearest chosen token, the first is
    the one least like the average; weight = (1 + motion x volatility) (1 + recency x time), where volatility is the
    mean change (1 - cosine) of a patch against the frames before and after it, relative to the row's largest, and time
    runs from 0 to 1; across the edge that two adjacent cameras share, distances shrink by 1 - ring x the bilateral
    similarity, which is the product of a Gaussian of the distance in the panorama and of cosine. All constants are
    ours, and not tuned: no video was at hand. On a single image the diversity alone is left. The images of a prompt
    share its budget.

    Args:
        views: cameras; a prompt shows all cameras of the first moment, in the order of the ring, then of the next; 1 is
            a video.
        motion, recency: higher favours what moves, or the last frames; 0 is off.
        ring: share, from 0 to 1, of the distance that a duplicate across cameras loses.
        reach: standard deviation of that Gaussian in image widths.
    """

    reconstruction = True
    joint = True
    fallback = "on single images its diversity alone"  # said in tables, whose benchmark shows no videos

    def __init__(
        self, views: int = 1, motion: float = 0.5, recency: float = 0.5, ring: float = 0.8, reach: float = 0.25
    ) -> None:
        super().__init__()
        if views < 1 or not 0 <= ring <= 1:
            raise UserError(f"views={views}, ring={ring} are refused: at least one camera, and a share from 0 to 1.")
        self.views, self.motion, self.recency, self.ring, self.reach = views, motion, recency, ring, reach

    def forward(self, view: View, keep: Tensor) -> Selection:
        rows, width = view.tokens.shape[0], view.tokens.shape[2]
        frames = F.normalize(view.tokens.float(), dim=-1).view(rows, view.frames, -1, width)
        real = torch.ones_like(frames[..., 0], dtype=torch.bool)
        if view.valid is not None:
            real = view.valid.view(real.shape)
        weight = soft_frame_weights(frames, real, self.views, self.motion, self.recency).flatten(1)
        shrink = None
        if self.views > 1 and self.ring:
            places = panorama_places(view.frames, self.views, view.grid).to(frames.device)
            shrink = functools.partial(duplicate_similarity, places, self.views, self.reach)
        order = diverse_order_scores(frames.flatten(1, 2), weight, int(keep.max()), view.valid, shrink, self.ring)
        return top_k_selection(order, keep, view.valid)


def soft_frame_weights(frames: Tensor, real: Tensor, views: int, motion: float, recency: float) -> Tensor:
    """Weigh unit features softly by how much they change, and how late they come.

    Args:
        frames: (B, T x V, N, D) the features.
        real: (B, T x V, N), False where a row has fewer images, or an image fewer tokens: that weighs on nothing.
        views: V, cameras of a moment.
        motion: weight of a token's change against the moments beside it; higher prefers what moves.
        recency: weight of the time, from 0 to 1 over a row; higher prefers what comes late.

    Returns:
        (B, T x V, N), 1 or more.
    """
    change = 1 - (frames[:, views:] * frames[:, :-views]).sum(-1)  # (B, (T-1) x V, N), against the moment before
    both = real[:, views:] & real[:, :-views]
    total, often = torch.zeros_like(frames[..., 0]), torch.zeros_like(frames[..., 0])
    for side in (slice(views, None), slice(None, -views)):  # a change counts for the moments on both its sides
        total[:, side] += change * both
        often[:, side] += both
    volatility = total / often.clamp_min(1)
    volatility = volatility / volatility.amax((1, 2), keepdim=True).clamp_min(_STILL)
    moment = torch.arange(frames.shape[1], device=frames.device) // views
    last = (moment * real.any(-1)).amax(1, keepdim=True)
    time = moment / last.clamp_min(1)
    return (1 + motion * volatility) * (1 + recency * time[..., None])


def panorama_places(frames: int, views: int, grid: tuple[int, int] | None) -> Tensor:
    """Tell where each token of T x V images lies: (T x V x N, 4) moment, camera, and x, y in image widths and heights."""
    if grid is None:
        raise UserError("Cameras side by side need the images' grids: put ST-Prune first, at the encoder or at 0.")
    image, y, x = torch.meshgrid(
        torch.arange(frames, dtype=torch.float32),
        torch.arange(grid[0]) / grid[0],
        torch.arange(grid[1]) / grid[1],
        indexing="ij",
    )
    camera = image % views
    return torch.stack([image // views, camera, camera + x, y], -1).flatten(0, 2)


def duplicate_similarity(places: Tensor, views: int, reach: float, pick: Tensor) -> Tensor:
    """Compute the spatial half of the bilateral similarity to the tokens `pick` (B,), across adjacent cameras' edges: (B, M).

    1 at the edge itself, 0 between tokens of one camera, of cameras that don't touch, or of different moments.
    """
    gap = (places[pick][:, None] - places).abs()  # (B, M, 4)
    if views > 2:  # three cameras or more close the ring
        gap[..., 1:3] = torch.minimum(gap[..., 1:3], views - gap[..., 1:3])
    touching = (gap[..., 0] == 0) & (gap[..., 1] == 1)
    return touching * (-(gap[..., 2:] ** 2).sum(-1) / (2 * reach**2)).exp()


def diverse_order_scores(
    unit: Tensor,
    weight: Tensor,
    count: int,
    valid: Tensor | None = None,
    shrink: Callable[[Tensor], Tensor] | None = None,
    ring: float = 0.0,
) -> Tensor:
    """Choose `count` tokens greedily, each unlike those before, and state the order as scores.

    Args:
        unit: (B, M, D) unit features.
        weight: (B, M) of each token's distance; higher is chosen earlier.
        count: tokens to choose.
        valid: (B, M) real tokens; None for all.
        shrink: for tokens (B,), what their distance to all others loses, (B, M), times ring x cosine.
        ring: weight of `shrink`.

    Returns:
        (B, M): count for the first, 0 for none.
    """
    real = torch.ones_like(weight, dtype=torch.bool) if valid is None else valid
    average = F.normalize((unit * real[..., None]).sum(1), dim=-1)
    pairs = unit @ unit.transpose(1, 2) if unit.shape[1] <= _ALL_PAIRS else None
    nearest = (1 - (unit @ average[..., None])[..., 0]).masked_fill(~real, -torch.inf)
    farthest = torch.full_like(nearest, 2.0).masked_fill(~real, -torch.inf)
    picks: list[Tensor] = []
    for _ in range(min(count, unit.shape[1])):
        pick = (weight * nearest).argmax(1, keepdim=True)  # (B, 1), the first of equals
        alike = (
            gather_tokens(pairs, pick)[:, 0]
            if pairs is not None
            else (unit @ gather_tokens(unit, pick).transpose(1, 2))[..., 0]
        )
        distance = 1 - alike
        if shrink is not None:
            distance = distance * (1 - ring * shrink(pick[:, 0]) * alike.clamp_min(0))
        nearest = torch.minimum(nearest if picks else farthest, distance).scatter(1, pick, -torch.inf)
        picks.append(pick)
    order = torch.cat(picks, 1)  # (B, count); a row with fewer tokens repeats one, whose first place counts
    places = torch.arange(count, count - order.shape[1], -1, device=order.device).to(weight)
    return torch.zeros_like(weight).scatter_reduce(1, order, places.expand_as(order), "amax")
