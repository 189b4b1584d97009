"""Our order of methods against the published one: scipy's correlation, an exact p, the methods that stand in both."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from learnpruner.comparison.published_order import (
    PUBLISHED,
    agreement_lines,
    published_agreement,
    rank_agreement,
)
from tests.comparison.test_table import row

DATA = json.loads(PUBLISHED.read_text())
CONFIGS = {path.stem for path in (Path(__file__).parents[2] / "conf" / "pruner").glob("*.yaml")}
THEIRS = {one["configs"][-1]: one["general"]["64"] for one in DATA["methods"] if "general" in one}


def test_the_correlation_is_scipys_with_ties_at_their_mean_rank():
    rng = np.random.default_rng(0)
    for _ in range(50):
        ours, theirs = rng.integers(0, 5, 9).tolist(), rng.integers(0, 5, 9).tolist()
        assert rank_agreement(ours, theirs)[0] == pytest.approx(stats.spearmanr(ours, theirs).statistic)


def test_p_is_the_share_of_all_orders_that_agree_as_much():
    ours, theirs = [1.0, 3.0, 2.0, 2.0, 6.0, 5.0], [2.0, 1.0, 3.0, 4.0, 4.0, 9.0]
    rho, p = rank_agreement(ours, theirs)
    orders = [stats.spearmanr(order, theirs).statistic for order in itertools.permutations(ours)]
    assert p == pytest.approx(np.mean(np.abs(orders) >= abs(rho) - 1e-9), abs=0.02)
    assert rank_agreement(ours, theirs) == (rho, p)


@pytest.mark.parametrize(("ours", "theirs"), [([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([], [])])
def test_nothing_is_said_of_few_methods_or_of_no_order(ours, theirs):
    assert rank_agreement(ours, theirs) == (None, None)


def test_the_same_order_agrees_and_the_reverse_disagrees():
    rows = [row(name, 0.111, value / 100) for name, value in THEIRS.items()]
    (general,) = published_agreement(rows)
    assert (general["tokens"], general["prune_ratio"], general["kind"]) == (64, 0.111, None)
    assert general["spearman"] == pytest.approx(1) and general["p"] < 0.001
    assert set(general["methods"]) == set(THEIRS)
    (reverse,) = published_agreement([row(name, 0.1111, -value / 100) for name, value in THEIRS.items()])
    assert reverse["spearman"] == pytest.approx(-1)


def test_methods_that_did_not_run_or_stand_nowhere_else_are_left_out():
    rows = [row(name, 0.055, i / 10) for i, name in enumerate(("cdpruner", "divprune", "dart", "visionzip", "tome"))]
    rows += [row("fastv", 0.055, status="infeasible"), row("cdpruner", 0.5, 0.9), row("hiprune", 0.055, 0.3)]
    (one,) = published_agreement(rows)
    assert one["methods"] == ["cdpruner", "divprune", "visionzip", "dart"]
    assert one["spearman"] == pytest.approx(stats.spearmanr([0.0, 0.1, 0.3, 0.2], [92.9, 90.5, 87.2, 88.0]).statistic)
    assert published_agreement([row("cdpruner", 0.5, 0.9)]) == []


def test_the_papers_method_is_learnpruner_paper_where_it_is_there():
    rows = [row(name, 0.111, 0.5) for name in ("learnpruner", "cls")]
    assert published_agreement(rows)[0]["methods"] == ["learnpruner", "cls"]
    assert published_agreement([*rows, row("learnpruner_paper", 0.111, 0.5)])[0]["methods"] == [
        "learnpruner_paper",
        "cls",
    ]


def test_reading_alone_is_put_in_the_order_of_the_protocol_heavy_in_text():
    names = ("vispruner", "hiprune", "visionzip", "divprune", "dart")
    rows = [row(name, 0.111, 0.5 + i / 100) for i, name in enumerate(names)]
    for i, one in enumerate(rows):
        one["accuracy"]["reading"] = 0.9 - i / 10
    general, heavy = published_agreement(rows)
    assert heavy["kind"] == "reading" and heavy["spearman"] == pytest.approx(1) and len(heavy["methods"]) == 5
    assert general["spearman"] < 0


def test_the_lines_say_how_few_they_are():
    rows = [row(name, ratio, value / 100) for name, value in THEIRS.items() for ratio in (0.111, 0.055)]
    lines = agreement_lines(published_agreement(rows))
    assert f"64 tokens 1.00 (n = {len(THEIRS)}, p = 0.0001); 32 tokens" in lines[0] and "few" in lines[-1]
    few = agreement_lines(published_agreement([row("cls", 0.111, 0.5)]))
    assert "64 tokens - (n = 1, too few" in few[0]
    assert agreement_lines([]) == []


def test_the_published_figures_have_sources_and_names_that_are_here():
    for one in DATA["methods"]:
        assert one["configs"][-1] in CONFIGS
        assert one["paper"] is None or len(one["paper"].split(".")) == 2
        assert all(50 < value < 100 for key in ("general", "ocr_heavy") for value in one.get(key, {}).values())
    assert "tome" not in {name for one in DATA["methods"] for name in one["configs"]}
