"""The seed of a step is what earlier versions drew."""

import platform
import random

import pytest

from learnpruner.training.step_seed import step_seed


def test_seeds_are_those_of_earlier_runs():
    """Of hash((seed, batch, 0)) % 2**63 under CPython 3.11."""
    assert [step_seed(0, 0), step_seed(0, 1), step_seed(7, 250)] == [
        3010437511937009226,
        7619408953831620358,
        3072292953808121525,
    ]


@pytest.mark.skipif(platform.python_implementation() != "CPython", reason="compared with CPython's hash of a tuple")
def test_seeds_are_cpython_s_hashes_of_seed_and_batch():
    draw = random.Random(0)
    for _ in range(2000):
        seed, batch = draw.randrange(2**32), draw.randrange(10**9)
        assert step_seed(seed, batch) == hash((seed, batch, 0)) % 2**63
