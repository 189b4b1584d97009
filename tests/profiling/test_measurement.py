"""How much the speed task measures: what is asked for, what is usual, and the largest batch that fits."""

from dataclasses import dataclass

import pytest
import torch

from learnpruner.profiling.measurement import LARGE_MODEL_WEIGHTS, LARGEST_BATCH, MeasurementSettings, largest_fitting


@dataclass
class Model:
    """As much of a model as its amount depends on."""

    device: str
    weights: int

    def parameters(self):
        return [torch.empty(self.weights, device="meta")]


SMALL, BIG, GPU = Model("cpu", 10), Model("cpu", LARGE_MODEL_WEIGHTS), Model("cuda:0", LARGE_MODEL_WEIGHTS)


@pytest.mark.parametrize(("model", "sizes"), [(SMALL, (1, 8)), (BIG, (1,)), (GPU, (1, 8, LARGEST_BATCH))])
def test_what_was_not_asked_for_suits_model_and_device(model, sizes):
    assert MeasurementSettings().or_usual(model).batch_sizes == sizes
    asked = MeasurementSettings(repeats=3, warmup=0).or_usual(model)
    assert (asked.repeats, asked.warmup, asked.batch_sizes) == (3, 0, sizes)
    assert MeasurementSettings([2], [5], 1, 1).or_usual(model) == MeasurementSettings([2], [5], 1, 1)


def test_a_large_model_on_a_cpu_is_run_once_to_its_first_token():
    amount = MeasurementSettings().or_usual(BIG)
    assert (amount.new_tokens, amount.warmup, amount.repeats) == ((1,), 0, 1)


@pytest.mark.parametrize("room", [1, 2, 3, 24, 64])
@pytest.mark.parametrize("start", [1, 8])
def test_the_largest_batch_is_the_last_doubling_that_fits(room, start):
    tried = []

    def attempt(size):
        tried.append(size)
        if size > room:
            raise torch.OutOfMemoryError

    found = largest_fitting(attempt, start)
    fitting = [size for size in (start * 2**i for i in range(1, 10)) if size <= room]
    assert found == max([start, *fitting])
    assert tried == [start * 2**i for i in range(1, len(fitting) + 2)]


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def attempt(size):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        largest_fitting(attempt)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("give a list", {"batch_sizes": 8}),
        ("give a list", {"batch_sizes": []}),
        ("give a list", {"new_tokens": 1}),
        ("benchmark.batch_sizes is 0", {"batch_sizes": [0]}),
        ("benchmark.new_tokens is 'largest'", {"new_tokens": ["largest"]}),
        ("benchmark.repeats is 0", {"repeats": 0}),
        ("benchmark.warmup is -1", {"warmup": -1}),
        ("on a GPU only", {"batch_sizes": [1, "largest"]}),
    ],
)
def test_amounts_that_cannot_be_are_refused_in_a_sentence(words, asked):
    with pytest.raises(ValueError, match=words):
        MeasurementSettings(**asked).or_usual(SMALL)
