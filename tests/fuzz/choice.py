"""Holds what the engine decides of images against the plan's budget, and against its first pruner on each image alone."""

from __future__ import annotations

import torch
from torch import Tensor

from fuzz.case import Case
from fuzz.decisions import Decisions
from fuzz.reading import Reading
from learnpruner import View
from learnpruner.engine.prefill_trace import PrefillTrace


def budget(case: Case, record: PrefillTrace) -> list[str]:
    """Each image keeps what the budget says for its own number of tokens; inside, or jointly, the images of a row do."""
    found, layers, left = [], case.on.family.layers, record.sizes.tolist()
    counts = [case.plan.counts(size, layers, least=True) for size in left]
    owners, rows = record.rows.tolist(), range(len(case.rows))
    for number, (stage, cut) in enumerate(zip(case.plan.stages, case.plan.cuts(layers), strict=True)):
        three = [[one[number] for one in counts], left, left := record.tokens[number].tolist()]
        if cut or stage.pruner.joint:
            three = [
                [sum(n for n, own in zip(one, owners, strict=True) if own == row) for row in rows] for one in three
            ]
        wanted, before, kept = three
        if kept != [min(pair) for pair in zip(wanted, before, strict=True)]:
            found.append(f"stage {number} keeps {kept} tokens of {before}, not {wanted}")
    return found


def images(case: Case, record: PrefillTrace, readings: list[Reading], decided: list[Decisions]) -> list[str]:
    """The grids of images, and what the first stage keeps of each, where that follows from its tokens and grid alone."""
    found, wanted = [list(map(tuple, one)) for one in record.grids], [one for row in readings for one in row.grids]
    wrong = [] if found == wanted else [f"the grids of the images are {found}, not {wanted}"]
    for row, (reading, one) in enumerate(zip(readings, decided, strict=True)):
        for image, kept in enumerate(one.before[0] if one.before else []):
            if _differs(case, reading, image, kept.numbers):
                wrong.append(f"row {row}: the first stage keeps other tokens of image {image} than of it alone")
    return wrong


@torch.no_grad()
def _differs(case: Case, reading: Reading, image: int, numbers: list[int]) -> bool:
    """Whether the tokens kept, by number, are others; False where that cannot be told from here."""
    stage, layers = case.plan.stages[0], case.on.family.layers
    if stage.cut(layers) or stage.pruner.joint or stage.pruner.needs or len(set(reading.grids[image])) > 1:
        return False
    if stage.at == "encoder" and reading.features is None:
        return False
    tokens = reading.embeds[reading.spots[image]] if reading.features is None else reading.features[image]
    count = case.plan.counts(len(tokens), layers, least=True)[0]
    grid, frames = reading.grids[image][0], len(reading.grids[image])

    def kept(tokens: Tensor) -> list[int]:
        return sorted(stage.pruner(View(tokens[None], None, grid, {}, frames), torch.tensor([count])).index[0].tolist())

    draw = torch.Generator().manual_seed(0)
    tie = (kept(tokens * (1 + 1e-6 * torch.randn(tokens.shape, generator=draw))) != kept(tokens) for _ in range(20))
    return kept(tokens) != sorted(numbers) and not any(tie)
