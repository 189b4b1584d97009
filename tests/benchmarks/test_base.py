"""Answers are compared after normalisation, and exactly."""

import pytest
from PIL import Image

from learnpruner.benchmarks.base import Benchmark, Example, normalise_answer


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        (" Yes. ", "yes"),
        ("The red  square!", "red square"),
        ("two", "2"),
        ("3.5", "3.5"),
        ("1,000.", "1,000"),
        ("top-left", "top left"),
        ("A", "a"),
        ("", ""),
    ],
)
def test_normalisation(answer, normal):
    assert normalise_answer(answer) == normal


def test_normalisation_is_idempotent():
    for answer in ("The Two Red-Squares, please.", "a", "3.5 m", "an apple"):
        assert normalise_answer(normalise_answer(answer)) == normalise_answer(answer)


class One(Benchmark):
    name = "one"
    kinds = ("only",)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return Example(Image.new("RGB", (4, 4)), "which?", "Red", "only", index)


@pytest.mark.parametrize(("prediction", "credit"), [("red.", 1.0), ("the red", 1.0), ("red blue", 0.0), ("", 0.0)])
def test_an_answer_counts_only_when_it_matches_exactly(prediction, credit):
    assert One().score(prediction, One()[0]) == credit
