"""MMBench: a question counts where every rotation is right; options and hints that are empty stay out."""

import math

import pytest

from learnpruner.benchmarks.mmbench import Mmbench
from learnpruner.benchmarks.mmbench_cn import MmbenchCn
from tests.tiny_benchmarks import color, mmbench, mmbench_cn, parquet


@pytest.fixture
def benchmark(tmp_path):
    return Mmbench(str(mmbench(tmp_path)))


def answered(benchmark, wrong=(), rows=None):
    """Right answers but for the rows of these indices."""
    examples = [benchmark[i] for i in (rows if rows is not None else range(len(benchmark)))]
    return [benchmark.answered(one, "?" if one.id in wrong else one.answer) for one in examples]


def test_rotations_come_together(benchmark):
    assert [benchmark[i].id for i in range(5)] == ["7", "1000007", "9", "1000009", "2000009"]


def test_the_right_option_turns_with_the_options(benchmark):
    texts = [benchmark[i].facts["options"][benchmark[i].answer] for i in range(5)]
    assert texts == ["cat", "cat", "left", "left", "left"]


@pytest.mark.parametrize(
    ("wrong", "score", "first"), [((), 100, 100), (("1000007",), 50, 100), (("9",), 50, 50), (("7", "2000009"), 0, 50)]
)
def test_one_wrong_rotation_loses_the_question(benchmark, wrong, score, first):
    found = benchmark.metrics(answered(benchmark, wrong))
    assert found["score"] == score
    assert found["accuracy without rotations"] == first
    assert found["coarse 7"] == (0 if set(wrong) & {"7", "1000007"} else 100)


def test_a_question_that_a_limit_cut_is_not_counted(benchmark):
    assert benchmark.total(answered(benchmark, ("1000009",), range(4))) == 100
    assert math.isnan(benchmark.total(answered(benchmark, rows=range(1))))


def test_answers_may_be_letters_or_texts(benchmark):
    assert [benchmark.score(said, benchmark[0]) for said in ("A", "A.", "(A)", "cat", "The cat.", "B", "bird")] == [
        1,
        1,
        1,
        1,
        1,
        0,
        0,
    ]


def test_empty_hints_and_options_stay_out(benchmark):
    assert benchmark[2].question.startswith("What is 9?\nA. up\nB. down\nC. left\nAnswer with")
    row = {**benchmark.rows[2], "hint": None, "C": float("nan"), "D": None, "answer": "A"}
    assert "\nC." not in benchmark.example(row).question


def test_without_rotations_it_is_said(tmp_path, caplog):
    row = {
        "index": 1,
        "question": "q",
        "hint": "",
        "A": "x",
        "B": "y",
        "C": "",
        "D": "",
        "answer": "A",
        "category": "c",
        "L2-category": "l",
    }
    benchmark = Mmbench(str(parquet(tmp_path, "dev", [{**row, "image": color(0)}])))
    assert "plain accuracy" in caplog.text
    assert benchmark.total(answered(benchmark)) == 100


def test_unknown_answers_are_refused(benchmark):
    with pytest.raises(ValueError, match="only dev has known answers"):
        benchmark.example({**benchmark.rows[0], "answer": None})


def test_chinese_is_a_configuration_of_its_own(tmp_path):
    benchmark = MmbenchCn(str(mmbench_cn(tmp_path)))
    assert benchmark.config == "cn" and len(benchmark) == 5
