"""The baseline that looks at nothing: the image at a lower resolution."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.pruner import RowwisePruner
from learnpruner.core.selection import Selection, top_k_selection
from learnpruner.core.signals import View


class AveragePooling(RowwisePruner):
    """Adaptive average pooling to the largest grid of the image's aspect that fits the budget.

    As torch.nn.AdaptiveAvgPool2d, whose cells share patches where the sizes do not divide. What the budget leaves over
    goes to the patches that differ most, in Euclidean distance, from the mean of the cell whose first row and column is
    nearest above and to the left. A pooled token takes the slot of its cell's first patch.
    The frames of a video share the budget evenly, the first ones with what does not divide.
    """

    def choose(self, view: View, keep: int) -> Selection:
        grid, (rows, n), frames = view.plane("Average pooling"), view.tokens.shape[:2], view.frames
        if keep == n:
            return Selection(torch.arange(n, device=view.tokens.device).expand(rows, n))
        each = [keep // frames + (frame < keep % frames) for frame in range(frames)]
        found = [pool_image(part, grid, count) for part, count in zip(view.tokens.chunk(frames, 1), each, strict=True)]
        size = n // frames
        index = torch.cat([index + frame * size for frame, (index, _) in enumerate(found)], 1)
        blocks = [F.pad(merge, (frame * size, n - (frame + 1) * size)) for frame, (_, merge) in enumerate(found)]
        return Selection(index, merge=torch.cat(blocks, 1))


def pool_image(tokens: Tensor, grid: tuple[int, int], keep: int) -> tuple[Tensor, Tensor]:
    """Pool an image (B, N, D) to `keep` tokens: their slots (B, keep), and weight rows (B, keep, N)."""
    rows, n = tokens.shape[:2]
    if not keep:
        return torch.zeros(rows, 0, dtype=torch.long, device=tokens.device), tokens.new_zeros(rows, 0, n).float()
    weights, first, cell = (part.to(tokens.device) for part in pooling_weights(*grid, *pooled_grid(*grid, keep)))
    tokens = tokens.float()
    residual = (tokens - (weights @ tokens)[:, cell]).square().sum(-1)
    residual[:, first] = -torch.inf  # their slots are taken
    others = top_k_selection(residual, torch.full((rows,), keep - len(first))).index
    index, order = torch.cat([first.expand(rows, -1), others], 1).sort(1)
    own = F.one_hot(others, n).float()
    merge = torch.cat([weights.expand(rows, -1, -1), own], 1)
    return index, merge.gather(1, order[..., None].expand_as(merge))


def pooled_grid(height: int, width: int, count: int) -> tuple[int, int]:
    """Find the largest grid of this aspect with at most `count` cells; its sides are rounded down, and at least 1."""
    scale = math.sqrt(count / (height * width))
    rows = min(max(1, math.floor(height * scale + 1e-9)), count)
    return rows, min(max(1, math.floor(width * scale + 1e-9)), count // rows)


def pooling_weights(height: int, width: int, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make the weights (R x C, H x W) of each cell's mean, the first patch of each cell, and each patch's cell (H x W,)."""
    (down, top_row, row), (across, left_column, column) = _line(height, rows), _line(width, columns)
    weights = torch.einsum("rh,cw->rchw", down, across).flatten(2).flatten(0, 1)
    first = (top_row[:, None] * width + left_column).flatten()
    return weights, first, (row[:, None] * columns + column).flatten()


def _line(length: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along one side: weights (cells, length), where each cell starts, and the last cell that starts at or before a place."""
    number, place = torch.arange(cells), torch.arange(length)
    start, end = number * length // cells, ((number + 1) * length + cells - 1) // cells
    inside = ((place >= start[:, None]) & (place < end[:, None])).float()
    return inside / inside.sum(1, keepdim=True), start, (place >= start[:, None]).sum(0) - 1
