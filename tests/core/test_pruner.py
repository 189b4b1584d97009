"""The extension point: what a pruner sees, and what an export remembers of it."""

import pytest
import torch

from learnpruner import Pruner, ScorePruner, Selection, Signal, View
from learnpruner.core.pruner import RowwisePruner


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


class Even(RowwisePruner):
    """Keeps the tokens nearest to the row's mean and says by which way it was told."""

    def __init__(self, tells: str = "index") -> None:
        super().__init__()
        self.tells = tells
        self.needs = frozenset({Signal("received_attention"), Signal("image_key")})

    def choose(self, view, keep):
        assert view.valid is None
        n = view.tokens.shape[1]
        scores = view[Signal("received_attention")] * view[Signal("image_key")][:, None]
        assert scores.shape == view.tokens.shape[:2]
        index = scores.topk(keep).indices.sort().values
        if keep == n or self.tells == "index":
            return Selection(index)
        merge = torch.nn.functional.one_hot(index, n) * 0.5 + 0.5 / n
        chosen = Selection(index, merge=merge)
        return chosen if self.tells == "merge" else Selection(index, values=chosen.apply(view.tokens))


@pytest.mark.parametrize("tells", ["index", "merge", "values"])
@pytest.mark.parametrize("ragged", [False, True])
def test_rows_of_different_lengths_choose_apart(tells, ragged):
    tokens, signal, key = torch.randn(5, 9, 3), torch.rand(5, 9), torch.tensor([1, 2, 3, 4, 5])
    valid = torch.rand(5, 9) < 0.7 if ragged else torch.ones(5, 9, dtype=torch.bool)
    valid[:, 4] = True
    keep = [1, 3, 9, 3, 2]
    signals = {Signal("received_attention"): signal, Signal("image_key"): key}
    found = Even(tells)(View(tokens, valid if ragged else None, (3, 3), signals), torch.tensor(keep))
    gone = found.apply(tokens)
    for row, count in enumerate(keep):
        real = valid[row].nonzero()[:, 0]
        count = min(count, len(real))
        alone = View(
            tokens[row : row + 1, real],
            signals={
                Signal("received_attention"): signal[row : row + 1, real],
                Signal("image_key"): key[row : row + 1],
            },
        )
        expected = Even(tells).choose(alone, count)
        assert found.index[row][found.valid[row]].tolist() == real[expected.index[0]].tolist()
        assert torch.allclose(gone[row][found.valid[row]], expected.apply(alone.tokens)[0], atol=1e-6)


def test_rows_that_are_alike_choose_together():
    signals = {Signal("received_attention"): torch.rand(4, 6), Signal("image_key"): torch.ones(4, dtype=torch.long)}
    found = Even("merge")(View(torch.randn(4, 6, 3), None, None, signals), torch.tensor([2, 2, 2, 2]))
    assert found.valid is None


def test_the_plane_of_several_frames_is_that_of_each():
    assert View(torch.zeros(1, 12, 3), grid=(2, 3), frames=2).plane("Example") == (2, 3)
    for grid, frames in (((2, 3), 1), ((2, 3), 3), (None, 2)):
        with pytest.raises(ValueError, match="needs all patches of an image"):
            View(torch.zeros(1, 12, 3), grid=grid, frames=frames).plane("Example")


def test_rows_that_choose_apart_lie_on_the_grid_only_where_all_their_tokens_are_real():
    class Looks(RowwisePruner):
        def choose(self, view, keep):
            seen.append((view.tokens.shape[1], view.grid))
            return Selection(torch.arange(keep).expand(len(view.tokens), -1))

    seen, valid = [], torch.ones(3, 6, dtype=torch.bool)
    valid[1, 4:] = False
    Looks()(View(torch.zeros(3, 6, 2), valid, (2, 3)), torch.tensor([2, 2, 3]))
    assert sorted(seen, key=str) == [(4, None), (6, (2, 3)), (6, (2, 3))]
