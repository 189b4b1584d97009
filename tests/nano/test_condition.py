"""The benchmark's conditions: what is measured equals what a plain count finds, and the table says what holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.data.scenes import GRID
from learnpruner.nano.condition import CONDITIONS, condition_rows, read_orders
from learnpruner.nano.selections import OraclePruner

ROOT = Path(__file__).parents[2]


class Tokens:
    """As much of a view as the oracle looks at."""

    def __init__(self, rows: int) -> None:
        self.tokens = torch.zeros(rows, GRID * GRID, 1)


@pytest.mark.parametrize("edition", [1, 2])
def test_the_oracle_keeps_a_patch_of_everything_that_is_asked_about_first(edition) -> None:
    benchmark = ScenesBenchmark("validation", edition=edition)
    oracle = OraclePruner(benchmark)
    scores = torch.cat([oracle.score(Tokens(3)), oracle.score(Tokens(4))])
    from learnpruner.data.scene_editions import sample_of_edition

    for row, order in enumerate(scores.argsort(descending=True)):
        evidence = sample_of_edition(edition, "validation", row)[1].evidence
        first = order[: len(evidence)].tolist()
        assert all(set(first) & set(patches.tolist()) for patches in evidence)


def test_the_table_says_of_each_condition_whether_it_holds() -> None:
    measured = {"unpruned": 91.0, "weakest": 74.0, "random 0.055": 81.0, "diverse 0.055": 93.0}
    rows = condition_rows({1: {"values": {"unpruned": 12.0}}, 2: {"values": measured}})
    verdicts = dict(zip([one.value for one in CONDITIONS], [row[-1] for row in rows[1:]], strict=True))
    expected = {"unpruned": "yes", "weakest": "no", "random 0.055": "no", "diverse 0.055": "yes", "late_loss": "-"}
    assert {name: verdicts[name] for name in expected} == expected
    assert rows[1][1:] == ["at least 90", "12.0", "91.0", "yes"] and rows[2][2] == "-"


def test_orders_are_those_of_the_table_of_all_methods(tmp_path) -> None:
    """Rows in the published order correlate with it perfectly."""
    published = json.loads((ROOT / "learnpruner/comparison/published_retention.json").read_text())
    ranked = [one for one in published["methods"] if "64" in one.get("general", {}) and one["configs"]]
    rows = [
        {
            "method": one["configs"][0],
            "prune_ratio": 0.111,
            "status": "ok",
            "retention": {"value": one["general"]["64"]},
        }
        for one in ranked
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"rows": [row | {"accuracy": {}} for row in rows]}))
    assert read_orders(path)["order general 64"] == pytest.approx(1.0)


def test_editions_and_folders_must_match() -> None:
    command = [
        sys.executable,
        "-m",
        "learnpruner.nano.condition",
        "--edition",
        "1",
        "--backbone",
        "a",
        "--backbone",
        "b",
    ]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and "--backbone stands 2 times for 1 editions; give one for each." in found.stderr
    assert np.all([one.asked for one in CONDITIONS])
