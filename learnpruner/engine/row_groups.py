"""Rows of a call choose with those that are alike: each is shown what it would be shown alone, whatever its mates are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learnpruner.backbones.family import PatchGrids
from learnpruner.core.pruner import Pruner
from learnpruner.core.selection import Selection, merge_rows
from learnpruner.core.signals import View
from learnpruner.engine.multi_image import call_pruner, choose_jointly


@dataclass(frozen=True)
class RowKind:
    """What rows have in common that are shown in one view.

    Args:
        size: candidates.
        grids: of an image's patches.
        words, entered: rows of the question, and visual tokens that entered the LLM, as far as the pruner reads them.
    """

    size: int
    grids: tuple[tuple[int, int], ...] = ()
    words: int | None = None
    entered: int | None = None


def choose_by_kind(
    pruner: Pruner, view: View, keep: Sequence[int], kinds: Sequence[RowKind], owner: Sequence[int] | None = None
) -> Selection:
    """Decide for all rows of a view, those of a kind together.

    Args:
        pruner: that decides.
        view: of all rows, padded to the largest.
        keep: tokens of each row.
        kinds: of each row.
        owner: the prompt of each row, ascending, for a pruner that chooses across the images of a prompt: then prompts
            are alike whose images are.
    """
    n, units = view.tokens.shape[1], _units(kinds, owner if pruner.joint else None)
    alike: dict[tuple[RowKind, ...], list[list[int]]] = {}
    for unit in [] if pruner.together else units:
        alike.setdefault(tuple(kinds[row] for row in unit), []).append(unit)
    if len(alike) <= 1 and (pruner.together or min(kind.size for kind in kinds) == n):
        return _decide(pruner, _on_grid(view, kinds), keep, units)
    parts = []
    for group in alike.values():
        rows = [row for unit in group for row in unit]
        chosen = _among(pruner, view, [keep[row] for row in rows], [kinds[row] for row in rows], group)
        if chosen is not None:
            parts.append((torch.tensor(rows, device=view.tokens.device), chosen))
    return merge_rows(parts, view.tokens)


def _units(kinds: Sequence[RowKind], owner: Sequence[int] | None) -> list[list[int]]:
    """Rows that decide as one."""
    units: dict[int, list[int]] = {}
    for row in range(len(kinds)):
        units.setdefault(row if owner is None else owner[row], []).append(row)
    return list(units.values())


def _among(
    pruner: Pruner, view: View, keep: Sequence[int], kinds: Sequence[RowKind], units: Sequence[Sequence[int]]
) -> Selection | None:
    """What the rows of some units keep, as indices among all N; None where they have nothing to choose from."""
    sizes, rows = [kind.size for kind in kinds], [row for unit in units for row in unit]
    if not max(sizes):
        return None
    device, n = view.tokens.device, view.tokens.shape[1]
    index = torch.tensor(rows, device=device)
    places = torch.arange(n, device=device).expand(len(rows), n)
    if view.valid is not None:
        places = (~view.valid[index]).to(torch.int8).argsort(dim=1, stable=True)
    places = places[:, : max(sizes)]
    part = view.part(index, places)
    part = replace(part, signals={s: _of_text(s.name, s.text_axis, v, kinds[0]) for s, v in part.signals.items()})
    if min(sizes) == max(sizes):
        part = replace(part, valid=None)
    return _decide(pruner, _on_grid(part, kinds), keep, units).among(places, n)


def _of_text(name: str, axis: int | None, values: Tensor, kind: RowKind) -> Tensor:
    """A signal without the fillers that rows of longer questions, or of more visual tokens, put before its own."""
    length, axis = (kind.entered, 1) if name.startswith("entered_") else (kind.words, axis)
    if axis is None or length is None:
        return values
    return values.narrow(axis, values.shape[axis] - length, length)


def _on_grid(view: View, kinds: Sequence[RowKind]) -> View:
    grid, frames = common_grid([list(kind.grids) for kind in kinds])
    return replace(view, grid=grid, frames=frames)


def _decide(pruner: Pruner, view: View, keep: Sequence[int], units: Sequence[Sequence[int]]) -> Selection:
    if not pruner.joint:
        return call_pruner(pruner, view, torch.tensor(keep))
    owner = torch.tensor([number for number, unit in enumerate(units) for _ in unit])
    return choose_jointly(pruner, view, keep, owner)


def common_grid(grids: Sequence[PatchGrids]) -> tuple[tuple[int, int] | None, int]:
    """Find (H, W) of every patch grid and how many of them each image has; None and 1 where images or grids differ."""
    kinds, counts = {grid for one in grids for grid in one}, {len(one) for one in grids}
    return (kinds.pop(), counts.pop()) if len(kinds) == len(counts) == 1 else (None, 1)
