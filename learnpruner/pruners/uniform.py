"""The baseline that knows nothing but the image's plane: tokens on a regular grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from learnpruner.core.pruner import Pruner
from learnpruner.core.selection import Selection, top_k_selection
from learnpruner.core.signals import View


class UniformPruner(Pruner):
    """Divides the image into as many cells as tokens to keep, and keeps the token nearest to each cell's centre.

    Images without one grid in common (tiles, videos, several sizes) are divided along the order of their tokens instead.
    """

    def forward(self, view: View, keep: Tensor) -> Selection:
        n = view.tokens.shape[1]
        if view.grid is None or view.frames > 1:
            sizes = [n] * len(keep) if view.valid is None else view.valid.sum(1).tolist()
            rows = [line_mask(size, count, n) for size, count in zip(sizes, keep.tolist(), strict=True)]
            return top_k_selection(torch.stack(rows).float().to(view.tokens.device), keep, view.valid)
        grid = view.plane("The uniform grid")
        rows = [grid_mask(*grid, count) for count in keep.tolist()]
        return top_k_selection(torch.stack(rows).float().to(view.tokens.device), keep, view.valid)


def grid_mask(height: int, width: int, count: int) -> Tensor:
    """Spread `count` tokens over the plane, in raster order: (H x W,) bool.

    Bands of rows hold cells that are as square as possible; bands differ by at most one cell where the count does not
    divide, so that every cell is as large as its neighbours to within one.
    """
    bands = min(max(1, round(math.sqrt(count * height / width))), height, count)
    bands = max(bands, math.ceil(count / width))  # a band holds at most `width` cells
    mask = torch.zeros(height, width, dtype=torch.bool)
    for band in range(bands):
        cells = count * (band + 1) // bands - count * band // bands
        row = _centre(band, bands, height)
        for cell in range(cells):
            mask[row, _centre(cell, cells, width)] = True
    return mask.flatten()


def line_mask(size: int, count: int, length: int) -> Tensor:
    """Mark `count` of the first `size` of `length` tokens, each in the middle of an equal share: (length,) bool."""
    count, mask = min(count, size), torch.zeros(length, dtype=torch.bool)
    mask[[_centre(number, count, size) for number in range(count)]] = True
    return mask


def _centre(number: int, of: int, length: int) -> int:
    """The position nearest to the centre of cell `number` of `of` on a line of `length`; distinct while of <= length."""
    return (2 * number + 1) * length // (2 * of)
