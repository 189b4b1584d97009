"""What a plan's first stage decides of an image alone, where it reads nothing but tokens and their grid."""

from __future__ import annotations

import torch
from torch import Tensor

from fuzz.reading import Reading
from fuzz.subjects import Subject
from learnpruner import Plan, View


@torch.no_grad()
def differs(on: Subject, plan: Plan, reading: Reading, image: int, numbers: list[int]) -> bool:
    """Whether the tokens kept, by number, are others; False where that cannot be told from here."""
    stage, layers = plan.stages[0], on.adapter.layers
    if stage.cut(layers) or stage.pruner.joint or stage.pruner.needs or len(set(reading.grids[image])) > 1:
        return False
    if stage.at == "encoder" and reading.features is None:
        return False
    tokens = reading.embeds[reading.spots[image]] if reading.features is None else reading.features[image]
    count = plan.counts(len(tokens), layers, least=True)[0]
    grid, frames = reading.grids[image][0], len(reading.grids[image])

    def kept(tokens: Tensor) -> list[int]:
        return sorted(stage.pruner(View(tokens[None], None, grid, {}, frames), torch.tensor([count])).index[0].tolist())

    draw = torch.Generator().manual_seed(0)
    tie = (kept(tokens * (1 + 1e-6 * torch.randn(tokens.shape, generator=draw))) != kept(tokens) for _ in range(20))
    return kept(tokens) != sorted(numbers) and not any(tie)
