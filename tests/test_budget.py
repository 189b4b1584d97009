"""Budgets: the architecture's formula, its rounding, and what can't be had."""

import re

import numpy as np
import pytest

from learnpruner.budget import averaged, budgets, check_ratio

TWO = [(0, 3.0), (12, 1.0)]


@pytest.mark.parametrize(("tokens", "expected"), [(128, (219, 73)), (64, (110, 37)), (32, (55, 18))])
def test_the_papers_budgets(tokens, expected):
    assert budgets(tokens / 576, 576, 32, TWO) == expected


def test_the_nano_backbone():
    assert budgets(0.055, 576, 8, [(0, 3), (3, 1)]) == (55, 18)
    assert averaged((55, 18), (0, 3), 576, 8) == 31.875


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
        assert abs(averaged((first, second), (0, cut), n, layers) - total) <= 0.5


def test_the_first_stage_is_clamped_and_the_second_rises():
    assert budgets(0.6, 576, 32, TWO) == (576, 208)


@pytest.mark.parametrize("stages", [[(0, 1)], [(5, 1)], TWO, [(0, 4), (0, 3), (8, 2), (16, 1)]])
def test_one_keeps_all(stages):
    assert budgets(1, 576, 32, stages) == (576,) * len(stages)


def test_one_stage_before_the_llm_keeps_the_share_itself():
    assert budgets(0.055, 576, 32, [(0, 1)]) == (32,)


def test_no_stage_has_no_budget():
    assert budgets(0.5, 576, 32, []) == ()
    assert averaged((), (), 576, 32) == 576


@pytest.mark.parametrize("stages", [[(0, 3), (8, 2), (16, 1)], [(8, 2), (16, 1)], [(0, 5), (0, 2), (12, 1)]])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.77, 0.95])
def test_any_number_of_stages_meets_the_average(stages, ratio):
    counts = budgets(ratio, 576, 32, stages)
    assert abs(averaged(counts, [cut for cut, _ in stages], 576, 32) - round(ratio * 576)) <= 0.5
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
    with pytest.raises(ValueError, match="less than one token"):
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


def test_an_image_too_small_for_the_ratio_keeps_the_least_that_it_can():
    stages = [(0, 3.0), (3, 1.0)]
    with pytest.raises(ValueError, match="infeasible"):
        budgets(0.02, 20, 8, stages)
    first, second = budgets(0.02, 20, 8, stages, least=True)
    assert first >= second == 1
    assert budgets(0.5, 20, 8, stages, least=True) == budgets(0.5, 20, 8, stages)
