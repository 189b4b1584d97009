"""Budgets: the architecture's formula, its rounding, and what can't be had."""

import re

import numpy as np
import pytest

from learnpruner.core.budget import budgets, check_ratio, mean_tokens_per_layer, read_share, share_at

TWO = [(0, 3.0), (12, 1.0)]


@pytest.mark.parametrize(("tokens", "expected"), [(128, (219, 73)), (64, (110, 37)), (32, (55, 18))])
def test_the_papers_budgets(tokens, expected):
    assert budgets(tokens / 576, 576, 32, TWO) == expected


def test_the_nano_backbone():
    assert budgets(0.055, 576, 8, [(0, 3), (3, 1)]) == (55, 18)
    assert mean_tokens_per_layer((55, 18), (0, 3), 576, 8) == 31.875


@pytest.mark.parametrize("layers", [4, 6, 8, 24, 28, 32, 40])
@pytest.mark.parametrize("n", [36, 144, 576, 2880])
def test_the_formula_and_the_realised_average(layers, n):
    cut = max(1, round(12 * layers / 32))
    for ratio in np.linspace(4 / n, 1, 57):
        total = round(float(ratio) * n)
        first, second = budgets(float(ratio), n, layers, [(0, 3), (cut, 1)])
        unit = 3 * total * layers / (2 * cut + layers)
        if unit <= n:
            assert (first, second) == (round(unit), round(total * layers / (2 * cut + layers)))
        else:
            assert (first, second) == (n, round((total * layers - n * cut) / (layers - cut)))
        assert abs(mean_tokens_per_layer((first, second), (0, cut), n, layers) - total) <= 0.5


def test_the_first_stage_is_clamped_and_the_second_rises():
    assert budgets(0.6, 576, 32, TWO) == (576, 208)


@pytest.mark.parametrize("stages", [[(0, 1)], [(5, 1)], TWO, [(0, 4), (0, 3), (8, 2), (16, 1)]])
def test_one_keeps_all(stages):
    assert budgets(1, 576, 32, stages) == (576,) * len(stages)


def test_one_stage_before_the_llm_keeps_the_share_itself():
    assert budgets(0.055, 576, 32, [(0, 1)]) == (32,)


def test_no_stage_has_no_budget():
    assert budgets(0.5, 576, 32, []) == ()
    assert mean_tokens_per_layer((), (), 576, 32) == 576


@pytest.mark.parametrize("stages", [[(0, 3), (8, 2), (16, 1)], [(8, 2), (16, 1)], [(0, 5), (0, 2), (12, 1)]])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.77, 0.95])
def test_any_number_of_stages_meets_the_average(stages, ratio):
    counts = budgets(ratio, 576, 32, stages)
    assert abs(mean_tokens_per_layer(counts, [cut for cut, _ in stages], 576, 32) - round(ratio * 576)) <= 0.5
    assert list(counts) == sorted(counts, reverse=True)


@pytest.mark.parametrize("cut", [1, 2, 12, 31])
def test_a_cut_inside_cannot_average_less_than_its_depth(cut):
    with pytest.raises(ValueError, match="is infeasible") as caught:
        budgets(cut / 32, 576, 32, [(cut, 1)])
    smallest = float(re.search(r"smallest feasible prune_ratio here is ([\d.]+)\.$", str(caught.value)).group(1))
    assert caught.value.smallest == smallest
    assert min(budgets(smallest, 576, 32, [(cut, 1)])) >= 1
    with pytest.raises(ValueError, match="infeasible"):
        budgets(smallest - 1 / 576, 576, 32, [(cut, 1)])


def test_a_budget_of_no_token_is_refused():
    with pytest.raises(ValueError, match="too few to leave each stage one token"):
        budgets(0.0005, 576, 32, [(0, 1)])


@pytest.mark.parametrize("value", [0, -0.1, 1.5, float("nan"), float("inf"), "0.055", None, True, [0.5]])
def test_a_ratio_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r"prune_ratio=.* is refused: .*above 0 and at most 1"):
        check_ratio(value)


@pytest.mark.parametrize("value", [1, 0.055, np.float32(0.5)])
def test_a_ratio_is_a_float(value):
    assert isinstance(check_ratio(value), float)


@pytest.mark.parametrize("stages", [[(0, 1), (12, 3)], [(12, 1), (0, 1)], [(32, 1)], [(-1, 1)], [(0, 0)]])
def test_stages_that_make_no_sense_are_refused(stages):
    with pytest.raises(ValueError, match=r"(is|are) refused"):
        budgets(0.5, 576, 32, stages)


BY_BUDGET = [(3, {0.3: 300, 0.2: 310}), (7, {0.3: 200, 0.2: 100}), (16, {0.3: 110, 0.2: 40})]


@pytest.mark.parametrize(
    ("ratio", "shares"),
    [(0.9, (300, 200, 110)), (0.3, (300, 200, 110)), (0.24, (310, 100, 40)), (0.15, (310, 100, 40))],
)
def test_of_shares_by_budget_the_nearest_budgets_rule(ratio, shares):
    cuts = [cut for cut, _ in BY_BUDGET]
    assert budgets(ratio, 576, 32, BY_BUDGET) == budgets(ratio, 576, 32, list(zip(cuts, shares, strict=True)))


@pytest.mark.parametrize("order", [(0.5, 0.25), (0.25, 0.5)])
def test_of_two_budgets_as_near_the_smaller_rules(order):
    share = {ratio: {0.5: 300.0, 0.25: 100.0}[ratio] for ratio in order}
    assert [share_at(share, ratio) for ratio in (0.376, 0.375, 0.374)] == [300, 100, 100]


def test_the_smallest_feasible_budget_has_its_own_shares():
    """The shares at 0.1 can't have 0.1; those of 0.2, which rule from 0.15 on, can have less than they are asked for."""
    stages = [(3, {0.2: 2.0, 0.1: 5000.0}), (16, {0.2: 1.0, 0.1: 1.0})]
    with pytest.raises(ValueError, match=r"share 5000.*smallest feasible prune_ratio here is 0.151\d\.") as caught:
        budgets(0.1, 576, 32, stages)
    assert min(budgets(caught.value.smallest, 576, 32, stages)) >= 1


def test_shares_are_checked_at_every_budget():
    with pytest.raises(ValueError, match="shares that never grow"):
        budgets(0.5, 576, 32, [(3, {0.5: 2, 0.1: 1}), (7, {0.5: 1, 0.1: 2})])


@pytest.mark.parametrize("share", [{}, "much", None, {"x": 1}, {0.5: "x"}, {1.5: 1}])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=r"share=.* is refused: it is a number"):
        read_share(share)


def test_a_share_is_read_from_json():
    assert read_share({"0.5": 2, "0.1": "1"}) == {0.5: 2.0, 0.1: 1.0}
    assert share_at(read_share(3), 0.5) == 3.0


def test_an_image_too_small_for_the_ratio_keeps_the_least_that_it_can():
    stages = [(0, 3.0), (3, 1.0)]
    with pytest.raises(ValueError, match="infeasible"):
        budgets(0.02, 20, 8, stages)
    first, second = budgets(0.02, 20, 8, stages, least=True)
    assert first >= second == 1
    assert budgets(0.5, 20, 8, stages, least=True) == budgets(0.5, 20, 8, stages)


def test_shares_that_grow_at_any_known_budget_are_refused():
    with pytest.raises(ValueError, match="shares that never grow"):
        budgets(0.1, 100, 8, [(0, {0.1: 3.0, 0.9: 1.0}), (4, {0.1: 1.0, 0.9: 2.0})])
