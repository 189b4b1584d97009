"""The extension point: what a pruner sees, and what an export remembers of it."""

import pytest
import torch

from learnpruner import Pruner, ScorePruner, Signal, View


class Example(ScorePruner):
    def __init__(self, power: int = 2, name: str = "x") -> None:
        super().__init__()
        self.power, self.name = power, name

    def score(self, view):
        return view.tokens[..., 0] ** self.power


def test_an_undeclared_signal_is_a_sentence_that_says_what_to_declare():
    with pytest.raises(KeyError, match=r"cls_attention.*add it to the pruner's `needs`"):
        View(torch.zeros(1, 2, 3))[Signal("cls_attention")]


def test_a_declared_signal_is_read_by_itself():
    signal, value = Signal("cls_attention", 3), torch.rand(1, 4, 2)
    assert View(torch.zeros(1, 2, 3), signals={signal: value})[signal] is value


def test_scores_become_a_selection():
    view = View(torch.tensor([[[1.0], [-3.0], [2.0]]]))
    assert Example()(view, torch.tensor([2])).index.tolist() == [[1, 2]]


def test_scores_respect_validity():
    view = View(torch.tensor([[[1.0], [-3.0], [2.0]]]), torch.tensor([[True, False, True]]))
    assert Example()(view, torch.tensor([2])).index.tolist() == [[0, 2]]


def test_constructor_arguments_are_remembered():
    assert Example(3).arguments() == {"power": 3, "name": "x"}
    assert Pruner().arguments() == {}
