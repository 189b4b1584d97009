"""LearnPruner's second stage: what the question attends to inside the language model."""

from __future__ import annotations

from torch import Tensor

from learnpruner.core.pruner import ScorePruner
from learnpruner.core.signals import NEXT_TEXT_ATTENTION, TEXT_ATTENTION, View
from learnpruner.utils.errors import UserError

_SIGNALS = {"K-1": TEXT_ATTENTION, "K": NEXT_TEXT_ATTENTION}


class TextAttention(ScorePruner):
    """Ranks visual tokens by the attention of the prompt's text rows, mean over heads and over the text after the image.

    Paper: https://arxiv.org/abs/2604.23950, which leaves open whether "layer 12" scores or is the first to run on fewer.

    Args:
        score_layer: with K the first layer that runs on the shorter sequence, "K-1" reads the last layer before it, at
            no cost but the rows; "K" asks layer K itself before it runs, which costs its queries and keys once more.
    """

    def __init__(self, score_layer: str = "K-1") -> None:
        super().__init__()
        if score_layer not in _SIGNALS:
            raise UserError(f"score_layer={score_layer!r} is refused: choose {' or '.join(_SIGNALS)}.")
        self.score_layer = score_layer
        self.needs = frozenset({_SIGNALS[score_layer]})

    def score(self, view: View) -> Tensor:
        return view[_SIGNALS[self.score_layer]]
