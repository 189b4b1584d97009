"""The baseline that every table needs: tokens drawn at random."""

from __future__ import annotations

import torch
from torch import Tensor

from learnpruner.core.pruner import ScorePruner
from learnpruner.core.signals import IMAGE_KEY, View


class RandomPruner(ScorePruner):
    """Draws tokens uniformly, from a generator seeded by the image itself and `seed`.

    The same image keeps the same tokens in any batch and on any device.
    """

    needs = frozenset({IMAGE_KEY})

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def score(self, view: View) -> Tensor:
        n, keys = view.tokens.shape[1], view[IMAGE_KEY].tolist()
        return torch.stack([seeded_uniform(n, key, self.seed) for key in keys]).to(view.tokens.device)


def seeded_uniform(n: int, key: int, seed: int) -> Tensor:
    """Draw n uniform numbers that are fixed by (key, seed): (n,)."""
    generator = torch.Generator().manual_seed((key * 0x9E3779B1 + seed) % 2**63)
    return torch.rand(n, generator=generator)
