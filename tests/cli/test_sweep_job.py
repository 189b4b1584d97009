"""What a job of a sweep has otherwise than the others, and how that reads in a folder's name."""

import pytest

from learnpruner.cli.sweep_job import LONGEST_NAME, job_values, swept_keys, swept_name


def test_keys_with_several_values_vary():
    words = [
        "prune_ratio=0.1,0.2",
        "seed=1",
        "+loss.kl.weight=range(1,3)",
        "relaxation=glob(*)",
        "data.json='a,b'",
        "-m",
    ]
    assert swept_keys(words) == {"prune_ratio", "loss.kl.weight", "relaxation"}
    assert swept_keys(["optimizer.lr=interval(1e-4, 1e-2)", "seed=choice(1,2)"]) == {"optimizer.lr", "seed"}


def test_a_job_has_one_value_of_each_in_the_order_of_its_command():
    overrides = ["name=x", "loss=kl", "+a.b=2", "seed=1"]
    assert job_values({"seed", "a.b", "loss"}, overrides) == {"loss": "kl", "a.b": "2", "seed": "1"}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, ""),
        ({"seed": "1", "optimizer.lr": "0.01"}, "seed=1-lr=0.01"),
        ({"optimizer.lr": "0.01", "adapter.lr": "0.1"}, "optimizer.lr=0.01-adapter.lr=0.1"),
        ({"plan": "checkpoints/nano-r0.055"}, "plan=nano-r0.055"),
        ({"data.json": "'/d/a b.json'"}, "json=a_b.json"),
        ({"benchmark.budgets": "[1,2]"}, "budgets=1_2"),
    ],
)
def test_a_name_says_what_varied(settings, name):
    assert swept_name(settings) == name
    assert "/" not in name


def test_a_name_never_grows_too_long_for_a_folder():
    assert len(swept_name({f"key{i}": "x" * 50 for i in range(9)})) == LONGEST_NAME
