"""What a scene's patches say in words: the language of the dense labels, of the textual scenes and of the projector's targets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from learnpruner.data.scenes import RIGHT_HALF, SIDES, Scene
from learnpruner.nano.model import WORD_ID

_NOTHING = WORD_ID["<pad>"]
_SINGLE, _FIRST, _SECOND = (
    len(WORD_ID) + i for i in range(3)
)  # a patch shows an only digit, the first of two, the second of two
SYMBOL_SLOTS = 8


def patch_symbols(scene: Scene) -> np.ndarray:
    """(576, 8) rows of the symbol table that a patch says; unused slots hold NOTHING."""
    labels = scene.labels
    table = np.full((len(scene.things) + 1, 2, SYMBOL_SLOTS), _NOTHING, dtype=np.int64)  # by thing and by half
    for i, thing in enumerate(scene.things):
        digits = thing.number.split()
        for half in (0, 1):
            role = _SINGLE if len(digits) == 1 else (_FIRST, _SECOND)[half]
            words = ("object", thing.color, thing.shape, thing.row, thing.column, digits[min(half, len(digits) - 1)])
            table[i + 1, half, : len(words)] = [WORD_ID[w] for w in words]
            table[i + 1, half, len(words)] = role
    says = table[labels.thing, labels.second]
    says[labels.mark == 1, SYMBOL_SLOTS - 1] = WORD_ID["marked"]
    free = labels.thing == 0
    says[free, 0] = WORD_ID["background"]
    says[free, 1] = np.where(RIGHT_HALF, *(WORD_ID[side] for side in SIDES[::-1]))[free]
    says[free, 2] = np.where(RIGHT_HALF, *(WORD_ID[texture] for texture in scene.background[::-1]))[free]
    return says


class SymbolTable(nn.Module):
    """Sums word embeddings (and three roles of digits that no word names) to what an ideal projector would deliver for a patch."""

    def __init__(self, words: nn.Embedding) -> None:
        super().__init__()
        self.words = words
        self.roles = nn.Parameter(torch.randn(3, words.embedding_dim) / words.embedding_dim**0.5)

    def forward(self, says: Tensor) -> Tensor:
        """(..., 8) -> (..., D)."""
        rows = torch.cat([self.words.weight, self.roles])
        return (rows[says] * (says != _NOTHING)[..., None]).sum(-2)
