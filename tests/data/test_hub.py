"""Hub datasets, from local folders in their format: on disk and as streams."""

import pytest

from learnpruner.data.hub import hub
from tests.tiny_data import COUNT, TEXT_ONLY, turns, vsft

SHOWN = [i for i in range(COUNT) if i != TEXT_ONLY]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return {"source": str(vsft(tmp_path_factory.mktemp("vsft")))}


@pytest.fixture(params=[False, True], ids=["disk", "stream"])
def source(place, request):
    return lambda **more: hub(**place, streaming=request.param, **{"buffer": 5, **more})


def number(sample):
    """Which record a sample is of, by its picture."""
    return round(sample.image.getpixel((0, 0))[0] / 10)


def epoch(source, count=COUNT - 1, first=0):
    return [source.sample(first + i) for i in range(count)]


def test_an_epoch_meets_every_record_once_with_its_own_picture_and_turns(source):
    made = source()
    for first in (0, len(SHOWN)):
        samples = epoch(made, first=first)
        assert sorted(map(number, samples)) == SHOWN
        assert all(sample.turns == turns(number(sample)) for sample in samples)
    assert made.skips.count == 0 and made.imageless == 1


def test_longer_records_are_met_a_question_at_a_time(source):
    samples = epoch(source(questions=1), sum(len(turns(i)) for i in SHOWN))
    asked = sorted((number(sample), turn) for sample in samples for turn in sample.turns)
    assert asked == sorted((i, turn) for i in SHOWN for turn in turns(i))
    assert all(len(sample.turns) == 1 for sample in samples)


def test_order_is_a_function_of_seed_and_index(source):
    first, again, other = source(), source(), source(seed=1)
    order = [number(sample) for sample in epoch(first, 30)]
    assert order == [number(again.sample(i)) for i in range(30)]
    assert order[:15] != order[15:] and order[:15] != sorted(order[:15])
    assert order[7:] == [number(source().sample(i)) for i in range(7, 30)]  # entered in the middle
    assert order != [number(other.sample(i)) for i in range(30)]
