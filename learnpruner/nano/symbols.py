"""What a scene's patches say in words: the language of the dense labels, of the textual scenes and of the projector's targets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from learnpruner.data.scenes import COLOR_NAMES, MOST_DIGITS, NO_LABEL, RIGHT_HALF, SIDES, Scene
from learnpruner.nano.model import WORD_ID

_NOTHING = WORD_ID["<pad>"]
# what no word names: the place of a digit in its number, that it is the last one, that a patch shows clutter
_FIRST_PLACE, _LAST, _CLUTTER = (len(WORD_ID) + i for i in (0, MOST_DIGITS, MOST_DIGITS + 1))
_ROLES = MOST_DIGITS + 2
SYMBOL_SLOTS = 8


def patch_symbols(scene: Scene) -> np.ndarray:
    """(576, 8) rows of the symbol table that a patch says, each of what it shows itself; unused slots hold NOTHING."""
    labels = scene.labels
    table = np.full((len(scene.things) + 1, SYMBOL_SLOTS), _NOTHING, dtype=np.int64)
    for i, thing in enumerate(scene.things):
        words = ("plate",) if thing.is_plate else ("object", thing.outline)
        words = (thing.color, thing.row, thing.column, *words)
        table[i + 1, : len(words)] = [WORD_ID[w] for w in words]
    says = table[labels.thing]
    digits = np.array([WORD_ID[str(d)] for d in range(10)])
    written = labels.place != NO_LABEL
    says[written, 5] = digits[labels.digit[written]]
    says[written, 6] = _FIRST_PLACE + labels.place[written]
    says[labels.last == 1, 7] = _LAST
    says[labels.mark == 1, 7] = WORD_ID["marked"]
    _say_free(says, scene)
    loose = (labels.digit != NO_LABEL) & ~written
    says[loose, 0], says[loose, 1] = _CLUTTER, digits[labels.digit[loose]]
    scraps = labels.scrap != NO_LABEL
    says[scraps, 0] = _CLUTTER
    says[scraps, 1] = np.array([WORD_ID[color] for color in COLOR_NAMES])[labels.scrap[scraps]]
    return says


def _say_free(says: np.ndarray, scene: Scene) -> None:
    free = scene.labels.free
    says[free, 0] = WORD_ID["background"]
    says[free, 1] = np.where(RIGHT_HALF, *(WORD_ID[side] for side in SIDES[::-1]))[free]
    says[free, 2] = np.where(RIGHT_HALF, *(WORD_ID[texture] for texture in scene.background[::-1]))[free]


class SymbolTable(nn.Module):
    """Sums word embeddings (and those of the roles that no word names) to what an ideal projector would deliver for a patch."""

    def __init__(self, words: nn.Embedding) -> None:
        super().__init__()
        self.words = words
        self.roles = nn.Parameter(torch.randn(_ROLES, words.embedding_dim) / words.embedding_dim**0.5)

    def forward(self, says: Tensor) -> Tensor:
        """(..., 8) -> (..., D)."""
        rows = torch.cat([self.words.weight, self.roles])
        return (rows[says] * (says != _NOTHING)[..., None]).sum(-2)
