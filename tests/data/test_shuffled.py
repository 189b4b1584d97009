"""Orders of an epoch: every sample once, repeatable, and batches of like length where that is asked for."""

import json

import numpy as np
import pytest

from learnpruner.data.conversation_records import longest_turn
from learnpruner.data.llava_json import LlavaJson
from learnpruner.data.shuffled import sample_records, shuffled_order
from tests.tiny_data import grey

LENGTHS = np.random.default_rng(0).integers(1, 1000, 1000).tolist()


def spread(order, unit, head=0):
    """Mean over whole units of the longest less the shortest sample."""
    rest = np.asarray(LENGTHS)[np.asarray(order)][head:]
    units = rest[: len(rest) // unit * unit].reshape(-1, unit)
    return (units.max(1) - units.min(1)).mean()


@pytest.mark.parametrize("unit", [2, 7, 16, 64])
@pytest.mark.parametrize("head", [0, 1, 5])
def test_grouped_units_are_far_more_alike_and_hold_every_sample_once(unit, head):
    plain = shuffled_order(1000, np.random.default_rng(1))
    grouped = shuffled_order(1000, np.random.default_rng(1), LENGTHS, unit, head)
    assert sorted(grouped) == sorted(plain) == list(range(1000))
    assert spread(grouped, unit, head) < 0.15 * spread(plain, unit, head)


def test_grouped_units_come_in_random_order():
    means = np.asarray(LENGTHS)[shuffled_order(1000, np.random.default_rng(1), LENGTHS, 4)].reshape(-1, 4).mean(1)
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """53 records with answers of 1 to 500 letters, whose ids are the lengths."""
    folder = tmp_path_factory.mktemp("lengths")
    grey(1).save(folder / "one.png")
    said = np.random.default_rng(2).choice(500, 53, replace=False) + 1
    records = [
        {"id": str(n), "image": "one.png", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "a" * n}]}
        for n in said.tolist()
    ]  # fmt: skip
    (folder / "train.json").write_text(json.dumps(records))

    def make(images=2, world=2, **settings):
        made = LlavaJson(folder / "train.json", group_by_length=True, **settings)
        made.arrange(images, world, 2)
        return made

    return make


def lengths(source, count, first=0):
    return [int(source.sample(first + i).id) for i in range(count)]


def test_each_epoch_meets_every_sample_once_in_an_order_of_its_own(source):
    made = source()
    epochs = [lengths(made, 53, 53 * epoch) for epoch in range(3)]
    assert all(sorted(one) == sorted(epochs[0]) for one in epochs) and len(set(epochs[0])) == 53
    assert epochs[0] != epochs[1] != epochs[2]
    assert lengths(source(), 53, 53) == epochs[1]
    assert lengths(source(seed=1), 53) != epochs[0]


def test_what_several_processes_train_on_in_one_step_is_alike(source):
    """Four samples a step, two of each process; steps that two epochs share are left out."""
    many = lengths(source(), 5 * 53)
    steps = [many[i : i + 4] for i in range(0, len(many) - 3, 4) if i // 53 == (i + 3) // 53]
    alone = np.random.default_rng(0).permutation(many)[: 4 * len(steps)].reshape(-1, 4)
    assert np.mean([max(s) - min(s) for s in steps]) < 0.3 * (alone.max(1) - alone.min(1)).mean()


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_share_is_a_function_of_the_seed(share):
    some = np.arange(7, 1007)
    picked = sample_records(some, share, 3)
    assert len(set(picked)) == 1000 * share and set(picked) <= set(some) and (np.diff(picked) > 0).all()
    assert np.array_equal(picked, sample_records(some, share, 3)) and not np.array_equal(
        picked, sample_records(some, share, 4)
    )
    assert abs(picked.mean() - some.mean()) < 100


def test_a_sample_is_as_long_as_its_longest_question_with_its_answer():
    assert longest_turn([("a", "bb"), ("ccc", "dddd"), ("e", "f")]) == 7
