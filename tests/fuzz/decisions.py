"""What the oracle takes from the engine: which candidates each stage kept, and how they merge. Nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from learnpruner.core.selection import Selection

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
    stages = list(zip(selections, cuts, strict=True))
    left = _before([chosen for chosen, cut in stages if not cut], sizes, found)
    for chosen, cut in [stage for stage in stages if stage[1]]:
        most = max(left)
        for row, decided in enumerate(found):
            kept, _ = _kept(chosen, row, _filled(left[row], most, first=True))
            decided.inside.append((cut, kept))
            left[row] = len(kept.numbers)
    return found


def _before(selections: Sequence[Selection], sizes: Sequence[Sequence[int]], found: list[Decisions]) -> list[int]:
    """Note what stages before the language model kept of each image; returns the tokens that are left, a row."""
    most, image, left = max((size for own in sizes for size in own), default=0), 0, []
    for own, decided in zip(sizes, found, strict=True):
        decided.before = [[] for _ in selections]
        left.append(0)
        for size in own:
            columns = _filled(size, most)
            for stage, chosen in zip(decided.before, selections, strict=True):
                kept, columns = _kept(chosen, image, columns)
                stage.append(kept)
            left[-1] += sum(column is not None for column in columns)
            image += 1
    return left


def _filled(count: int, most: int, first: bool = False) -> Columns:
    """`count` real candidates of `most`; fillers come last, and inside the language model first."""
    fillers: Columns = [None] * (most - count)
    return [*fillers, *range(count)] if first else [*range(count), *fillers]


def _kept(selection: Selection, row: int, columns: Columns) -> tuple[Kept, Columns]:
    """What one row of a selection kept, and what its places are to the next stage."""
    index = selection.index[row].tolist()
    valid = [True] * len(index) if selection.valid is None else selection.valid[row].tolist()
    numbers = [columns[column] if there else None for column, there in zip(index, valid, strict=True)]
    real = [place for place, number in enumerate(numbers) if number is not None]
    following: Columns = [real.index(place) if place in real else None for place in range(len(index))]
    there = [column for column, number in enumerate(columns) if number is not None]  # their numbers ascend
    weights = None if selection.merge is None else selection.merge[row][real][:, there].float()
    values = None if selection.values is None else selection.values[row][real]
    return Kept([number for number in numbers if number is not None], weights, values), following
