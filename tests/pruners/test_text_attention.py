"""The second stage reads the layer before the cut, or asks the layer at the cut."""

import pytest
import torch

from learnpruner import View
from learnpruner.core.signals import Signal
from learnpruner.pruners.text_attention import TextAttention


@pytest.mark.parametrize(("layer", "name"), [("K-1", "text_attention"), ("K", "next_text_attention")])
def test_it_keeps_what_the_signal_of_its_layer_ranks_first(layer, name):
    scores = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    pruner = TextAttention(layer)
    assert pruner.needs == {Signal(name)} and pruner.arguments() == {"score_layer": layer}
    assert pruner(View(torch.zeros(1, 4, 2), signals={Signal(name): scores}), torch.tensor([2])).index.tolist() == [
        [1, 3]
    ]


def test_another_layer_is_refused():
    with pytest.raises(ValueError, match="score_layer='12' is refused: choose K-1 or K"):
        TextAttention("12")
