"""LearnPruner's second stage: what the question attends to inside the language model."""

from __future__ import annotations

from torch import Tensor

from learnpruner.pruner import ScorePruner, Signal, View

TEXT = Signal("text_attention")


class TextAttention(ScorePruner):
    """Ranks visual tokens by the attention of the prompt's text rows, in the layer before the cut.

    Mean over heads and over the text rows after the image. Paper: https://arxiv.org/abs/2604.23950
    """

    needs = frozenset({TEXT})

    def score(self, view: View) -> Tensor:
        return view[TEXT]
