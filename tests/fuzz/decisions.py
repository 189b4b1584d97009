"""What the oracle takes from the engine: which candidates each stage kept, and how they merge. Nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from learnpruner.selection import Selection

Columns = list[int | None]  # what each of a selection's candidates is among the real ones; None for a filler


@dataclass(frozen=True)
class Kept:
    """What a stage kept of M candidates, in order; with weights (K, M) or values (K, D) where that changes them."""

    numbers: list[int]
    weights: Tensor | None
    values: Tensor | None

    @property
    def changes(self) -> bool:
        return self.weights is not None or self.values is not None

    def apply(self, tokens: Tensor) -> Tensor:
        """Candidates (M, D) as they go on: (K, D)."""
        if self.values is not None:
            return self.values.to(tokens.dtype)
        return tokens[self.numbers] if self.weights is None else self.weights.to(tokens.dtype) @ tokens


@dataclass
class Decisions:
    """Of one row. before: for each stage before the language model, one an image. inside: by depth, with the layer."""

    before: list[list[Kept]] = field(default_factory=list)
    inside: list[tuple[int, Kept]] = field(default_factory=list)


def decisions(selections: Sequence[Selection], cuts: Sequence[int], sizes: Sequence[Sequence[int]]) -> list[Decisions]:
    """One a row. sizes: visual tokens of each image of each row."""
    found = [Decisions() for _ in sizes]
    owners = [row for row, own in enumerate(sizes) for _ in own]
    counts = [size for own in sizes for size in own]
    columns: list[Columns] = [_filled(size, max(counts)) for size in counts]
    for selection, cut in zip(selections, cuts, strict=True):
        if cut:
            break
        for decided in found:
            decided.before.append([])
        for image, owner in enumerate(owners):
            kept, columns[image] = _kept(selection, image, columns[image])
            found[owner].before[-1].append(kept)
            counts[image] = len(kept.numbers)
    left = [
        sum(count for count, owner in zip(counts, owners, strict=True) if owner == row) for row in range(len(sizes))
    ]
    for selection, cut in zip(selections, cuts, strict=True):
        if cut:
            most = max(left)
            for row, decided in enumerate(found):
                kept, _ = _kept(selection, row, _filled(left[row], most, first=True))
                decided.inside.append((cut, kept))
                left[row] = len(kept.numbers)
    return found


def _filled(count: int, most: int, first: bool = False) -> Columns:
    """`count` real candidates of `most`; fillers come last, and inside the language model first."""
    fillers: Columns = [None] * (most - count)
    return [*fillers, *range(count)] if first else [*range(count), *fillers]


def _kept(selection: Selection, row: int, columns: Columns) -> tuple[Kept, Columns]:
    """What one row of a selection kept, and what its places are to the next stage."""
    index = selection.index[row].tolist()
    valid = [True] * len(index) if selection.valid is None else selection.valid[row].tolist()
    real = [
        place
        for place, (column, is_valid) in enumerate(zip(index, valid, strict=True))
        if is_valid and columns[column] is not None
    ]
    following: Columns = [None] * len(index)
    for number, place in enumerate(real):
        following[place] = number
    there = [column for column, number in enumerate(columns) if number is not None]
    there.sort(key=lambda column: columns[column])  # type: ignore[arg-type, return-value]
    weights = None if selection.merge is None else selection.merge[row][real][:, there].float()
    values = None if selection.values is None else selection.values[row][real]
    return Kept([columns[index[place]] for place in real], weights, values), following  # type: ignore[misc]
