"""Rows that are not alike choose apart, and what they choose is put together again."""

import pytest
import torch
from plans import Norm, real
from tiny import TOKENS, ids, inputs, tiny_llava

from learnpruner import Plan, Pruner, ScorePruner, Selection, Signal, Stage, View
from learnpruner.core.relaxations import SoftTopK
from learnpruner.core.selection import top_k_selection
from learnpruner.engine.multi_image import choose_jointly
from learnpruner.engine.row_groups import RowKind, choose_by_kind, common_grid
from learnpruner.pruners.learnpruner import LearnedPruner
from learnpruner.pruners.visionselector import VisionSelector

MODEL = tiny_llava()
SIZES = (6, 12, 9, 12)
KINDS = [RowKind(6, ((2, 3),)), RowKind(12, ((3, 4),)), RowKind(9, ((3, 3),)), RowKind(12, ((4, 3),))]
KEY = Signal("received_attention")


def view(sizes=SIZES, first=False):
    """Rows of random tokens; fillers stand behind them, or first."""
    valid = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    valid = valid.flip(1) if first else valid
    return View(torch.randn(len(sizes), max(sizes), 8), valid, signals={KEY: torch.rand(len(sizes), max(sizes))})


def alone(seen, row, size, grid):
    """What a row is shown alone."""
    real = seen.valid[row]
    return View(seen.tokens[row : row + 1, real], None, grid, {KEY: seen[KEY][row : row + 1, real]})


class Shown(Pruner):
    """Keeps the best by a signal, each as the mean of all tokens, and remembers its views."""

    needs = frozenset({KEY})

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, view, keep):
        self.seen.append(view)
        chosen = top_k_selection(view[KEY], keep, view.valid)
        mean = torch.full((*chosen.index.shape, view.tokens.shape[1]), 1 / view.tokens.shape[1])
        return Selection(chosen.index, chosen.valid, merge=mean)


@pytest.mark.parametrize("first", [False, True])
def test_each_row_is_shown_what_it_would_be_shown_alone(first):
    seen, pruner = view(first=first), Shown()
    found = choose_by_kind(pruner, seen, [3, 5, 4, 5], KINDS)
    for row, (size, shown) in enumerate(zip(SIZES, pruner.seen, strict=True)):
        expected = alone(seen, row, size, KINDS[row].grids[0])
        assert torch.equal(shown.tokens, expected.tokens) and torch.equal(shown[KEY], expected[KEY])
        assert shown.valid is None and shown.grid == expected.grid and shown.frames == 1
        mask = torch.zeros(12, dtype=torch.bool)
        mask[
            seen.valid[row].nonzero()[:, 0][top_k_selection(expected[KEY], torch.tensor([(3, 5, 4, 5)[row]])).index[0]]
        ] = True
        assert torch.equal(found.mask(12)[row], mask)
        mean = expected.tokens[0].mean(0).expand(int(mask.sum()), -1)
        torch.testing.assert_close(found.apply(seen.tokens)[row][found.valid[row]], mean)


def test_rows_that_are_alike_are_shown_in_one_view_and_nothing_is_copied():
    seen = View(torch.randn(3, 12, 8), signals={KEY: torch.rand(3, 12)})
    pruner = Shown()
    choose_by_kind(pruner, seen, [5, 5, 5], [KINDS[1]] * 3)
    assert [shown.tokens is seen.tokens and shown[KEY] is seen[KEY] for shown in pruner.seen] == [True]


def test_rows_with_nothing_to_choose_from_keep_nothing():
    seen = View(torch.randn(2, 12, 8), torch.tensor([[True], [False]]).expand(2, 12))
    found = choose_by_kind(Norm(), seen, [4, 0], [RowKind(12), RowKind(0)])
    assert found.mask(12).sum(1).tolist() == [4, 0]
    nobody = choose_by_kind(
        Norm(), View(torch.randn(1, 12, 8), torch.zeros(1, 12, dtype=torch.bool)), [0], [RowKind(0)]
    )
    assert nobody.index.shape == (1, 0)


def test_gates_and_losses_are_those_of_the_rows_alone():
    seen, keep = view(), [3, 5, 4, 5]
    pruner = LearnedPruner(8)
    pruner.relaxation = SoftTopK()
    selector = VisionSelector(8).train()
    gates, told = choose_by_kind(pruner.train(), seen, keep, KINDS).gate, choose_by_kind(selector, seen, keep, KINDS)
    losses = []
    for row, size in enumerate(SIZES):
        one = alone(seen, row, size, None)
        torch.testing.assert_close(gates[row, :size], pruner(one, torch.tensor(keep[row : row + 1])).gate[0])
        assert not gates[row, size:].any()
        expected = selector(one, torch.tensor(keep[row : row + 1]))
        torch.testing.assert_close(told.values[row, :size], expected.values[0])
        losses.append(expected.losses["bce"])
    torch.testing.assert_close(told.losses["bce"], torch.stack(losses).mean())
    gates.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in pruner.parameters())


class Uneven(ScorePruner):
    """Keeps some tokens of every second image and all of the others; the last one always."""

    adaptive = True

    def score(self, view):
        return torch.arange(view.tokens.shape[1], dtype=torch.float).expand(view.tokens.shape[:2])

    def forward(self, view, keep):
        least = torch.tensor([20, 5]).repeat(len(keep))[: len(keep)]
        return top_k_selection(self.score(view), least, view.valid)


@pytest.mark.parametrize("second", ["encoder", 0])
def test_masking_equals_dropping_behind_a_stage_that_left_images_of_other_counts(second):
    """A filler stands at the place of some token; its gate closes none."""
    batch = inputs([ids(1, seed=seed) for seed in range(4)])
    plan = Plan([Stage(Uneven(), "encoder"), Stage(Uneven(), second)], 0.5).eval()
    with torch.no_grad():
        with plan.on(MODEL) as engine:
            dropped, record = MODEL(**batch).logits, engine.record
        with plan.on(MODEL, "masked") as engine:
            masked = MODEL(**batch).logits
    assert record.tokens[0].tolist() == [20, 5, 20, 5] and record.kept[1][:, TOKENS - 1].all()
    assert (dropped - masked)[real(batch)].abs().max() < 1e-5


class JointKeys(ScorePruner):
    """Ranks the images of a prompt by the size of the LLM's keys for their tokens."""

    joint, needs = True, frozenset({Signal("token_keys")})

    def score(self, view):
        return view[Signal("token_keys")].norm(dim=-1).mean(1)


def test_what_the_language_model_makes_of_tokens_is_joined_across_images_as_the_tokens_are():
    tokens, keys = torch.randn(3, 4, 8), torch.randn(3, 2, 4, 5)
    seen = View(tokens, signals={Signal("token_keys"): keys})
    found = choose_jointly(JointKeys(), seen, [2, 2, 2], torch.tensor([0, 0, 1]))
    size = keys.norm(dim=-1).mean(1)  # (I, N)
    assert torch.equal(
        found.mask(4)[:2].flatten(), top_k_selection(size[:2].reshape(1, -1), torch.tensor([4])).mask(8)[0]
    )
    assert torch.equal(found.mask(4)[2:], top_k_selection(size[2:], torch.tensor([2])).mask(4))


def test_a_grid_is_an_image_s_own():
    assert common_grid([[(2, 3)], [(2, 3)]]) == ((2, 3), 1)
    assert common_grid([[(2, 3)] * 4]) == ((2, 3), 4)
    assert (
        common_grid([[(2, 3)], [(3, 2)]])
        == common_grid([[(2, 3), (4, 4)]])
        == common_grid([[(2, 3)], [(2, 3)] * 2])
        == (None, 1)
    )


class Remembers(Norm):
    """Ranks by the norm; remembers its views."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def score(self, view):
        self.seen.append(view)
        return super().score(view)


def test_what_is_left_behind_a_stage_lies_on_no_grid():
    first, second = Remembers(), Remembers()
    with torch.no_grad(), Plan([Stage(first, "encoder", 2), Stage(second, "encoder", 1)], 0.25).on(MODEL):
        MODEL(**inputs([ids(1), ids(1, seed=1)]))
    assert [view.grid for view in first.seen] == [(6, 6)] and [view.grid for view in second.seen] == [None]
