"""What conversations came to, worked out by hand: accuracy, agreement, retention over conversations, cost."""

import pytest
import torch

from learnpruner.data.sample import Sample
from learnpruner.kv_eviction.conversation import ConversationResult, answer_mask
from learnpruner.kv_eviction.conversation_task import ConversationTask
from learnpruner.kv_eviction.policies.streaming_llm import StreamingLLM
from learnpruner.kv_eviction.table import _ALONE, _GROWING, ConversationRow, conversation_table, measure_rows

TURNS = [[(f"q{turn}", f"{sample}{turn}") for turn in range(4)] for sample in "xy"]
SAMPLES = [Sample(None, turns, "") for turns in TURNS]
RIGHT = [[answer for _, answer in turns] for turns in TURNS]


def said(*wrong, **more):
    """Everything right but for these (conversation, turn)."""
    answers = [
        ["?" if (row, turn) in wrong else one for turn, one in enumerate(rows)] for row, rows in enumerate(RIGHT)
    ]
    return ConversationResult(answers, **{"tokens": 30, "seconds": 2.0, "kv_bytes": 0.0, "slots": 0.0, **more})


@pytest.fixture
def rows():
    alone, growing, few = said((1, 3)), said((0, 3), (1, 3)), said((0, 0), (0, 3), kv_bytes=2.0**20, slots=12.0)
    found = {
        ConversationRow("none", _ALONE): [(alone, None)],
        ConversationRow("none", _GROWING): [(growing, alone.answers)],
        ConversationRow("none", "recent", 12): [(few, None)],
    }
    return measure_rows(found, SAMPLES)


def test_accuracy_is_of_all_turns_and_of_the_last_quarter(rows):
    assert [row["accuracy"] for row in rows] == [7 / 8, 6 / 8, 6 / 8]
    assert [row["last_turns"] for row in rows] == [1 / 2, 0, 1 / 2]
    assert [row["separate"] for row in rows] == [None, 7 / 8, None]


def test_each_is_compared_with_questions_asked_alone(rows):
    """Agreement is of texts, whether right or not; retention of accuracies."""
    assert [row["agreement"] for row in rows] == [1, 7 / 8, 5 / 8]
    assert [row["retention"]["value"] for row in rows] == pytest.approx([1, 6 / 7, 6 / 7])
    assert (rows[0]["retention"]["low"], rows[0]["retention"]["high"]) == (1, 1)


def test_the_interval_draws_conversations():
    """All questions of each are as right as the other model's: whichever are drawn, 2 of 4 is left."""
    half, whole = said((0, 0), (0, 1), (1, 2), (1, 3)), said()
    row = measure_rows(
        {ConversationRow("none", _ALONE): [(whole, None)], ConversationRow("none", "recent", 1): [(half, None)]},
        SAMPLES,
    )[1]
    assert row["retention"] == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_costs_are_means_over_batches_and_rates(rows):
    assert [(row["kv_bytes"], row["slots"]) for row in rows] == [(None, None), (None, None), (2**20, 12)]
    assert [row["tokens_per_second"] for row in rows] == [15, 15, 15]
    halves = [ConversationResult([one], 10 * number, number, number, number) for number, one in enumerate(RIGHT, 1)]
    (row,) = measure_rows({ConversationRow("none", _ALONE): [(half, None) for half in halves]}, SAMPLES)
    assert (row["kv_bytes"], row["slots"], row["tokens_per_second"]) == (1.5, 1.5, 10)


def test_the_table_has_a_line_a_row(rows):
    cells = conversation_table({"rows": rows})
    assert len({len(line) for line in cells}) == 1
    assert cells[1][:3] == ["none", _ALONE, "-"] and cells[3][:3] == ["none", "recent", "12"]
    assert cells[3][3] == "75.0" and cells[3][5:8] == ["50.0", "-", "62.5"]
    assert cells[3][8:] == ["12", "1.00", "15"] and cells[1][8:] == ["-", "-", "-"]


def test_an_answer_goes_to_its_end_and_no_further():
    new = torch.tensor([[5, 2, 0, 0], [5, 6, 7, 8], [2, 0, 0, 0], [5, 2, 2, 2]])
    assert answer_mask(new, 2).sum(1).tolist() == [2, 4, 1, 2]


def test_each_policy_evicts_at_each_budget_as_often_as_is_asked_for():
    made = ConversationTask(None, budgets=[2, 8, 9], evict_interval=3, policies={"recent": StreamingLLM(4)})._evictions(
        None, ()
    )
    found = {key: (eviction.budget, eviction.evict_interval) for key, eviction in made.items()}
    assert found == {("recent", 8): (8, 3), ("recent", 9): (9, 3)}  # sinks alone fill the smallest
