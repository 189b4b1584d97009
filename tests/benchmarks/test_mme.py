"""MME: the parser, and points by pairs of questions, by hand."""

import math

import pytest

from learnpruner.benchmarks.mme import _COGNITION, _PERCEPTION, Mme, mme_yes_no
from tests.tiny_benchmarks import color, mme, parquet


@pytest.fixture
def source(tmp_path):
    return str(mme(tmp_path))


@pytest.mark.parametrize(
    ("prediction", "word"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("Y", "yes"),
        ("n.", "no"),
        ("x", "other"),
        ("No, it is not", "no"),
        ("Oh yes", "other"),
        ("a no", "no"),
        ("not so", "no"),
        ("Eyes", "yes"),
        ("It is", "other"),
        ("", "other"),
    ],
)
def test_the_parser_looks_at_the_first_four_characters(prediction, word):
    assert mme_yes_no(prediction) == word


def test_questions_lose_their_ending_and_pairs_come_together(source):
    benchmark = Mme(source)
    pair = benchmark[0], benchmark[1]
    assert pair[0].scene == pair[1].scene == "existence/existence/1.png"
    assert [one.answer for one in pair] == ["yes", "no"]
    assert not any("Please answer" in one.question for one in pair)


@pytest.mark.parametrize("ending", ["", " Please answer yes or no.", "  Please answer yes or no. "])
def test_an_instruction_leaves_no_blank_behind(source, ending):
    """MME's files put one blank before it, or two; LLaVA's question file holds neither."""
    benchmark = Mme(source)
    one = benchmark.example({**benchmark.rows[0], "question": f" Is it red?{ending}"})
    assert one.question == "Is it red?\nAnswer the question using a single word or phrase."


def answers(benchmark, said):
    """said: category -> answers to its yes-question and its no-question."""
    kept = [benchmark[i] for i in range(len(benchmark)) if benchmark[i].kind in said]
    seen: dict[str, int] = {}
    found = []
    for one in kept:
        place = seen[one.kind] = seen.get(one.kind, -1) + 1
        if place < len(said[one.kind]):
            found.append(benchmark.answered(one, said[one.kind][place]))
    return found


def test_both_right_is_200_one_right_is_50(source):
    benchmark = Mme(source)
    found = benchmark.metrics(
        answers(
            benchmark,
            {"color": ["yes", "no"], "OCR": ["yes", "yes"], "count": ["no", "yes"], "code_reasoning": ["Y", "n"]},
        )
    )
    assert (found["color"], found["OCR"], found["count"], found["code_reasoning"]) == (200, 50, 0, 200)
    assert (found["perception"], found["cognition"], found["score"]) == (250, 200, 450)
    assert math.isnan(found["scene"])


def test_a_category_is_the_mean_over_its_images(tmp_path):
    rows = []
    for number in range(4):
        for answer in ("Yes", "No"):
            row = {"question_id": f"{number}.png", "question": f"Is it? {answer}", "answer": answer}
            rows.append({**row, "category": "color", "image": color(number)})
    benchmark = Mme(str(parquet(tmp_path, "test", rows)))
    said = ["yes", "no"] * 2 + ["yes", "yes"] + ["no", "yes"]
    found = [benchmark.answered(benchmark[i], word) for i, word in enumerate(said)]
    assert benchmark.total(found) == pytest.approx((200 + 200 + 50 + 0) / 4)


def test_the_highest_scores(source):
    for report, best in {"sum": 2800, "perception": 2000, "cognition": 800}.items():
        benchmark = Mme(source, report=report)
        everything = answers(benchmark, {kind: ["yes", "no"] for kind in (*_PERCEPTION, *_COGNITION)})
        assert benchmark.total(everything) == benchmark.best == best


def test_half_a_pair_is_not_counted(source):
    benchmark = Mme(source)
    assert benchmark.total(answers(benchmark, {"color": ["yes", "no"], "OCR": ["yes"]})) == 200
    assert math.isnan(benchmark.total(answers(benchmark, {"OCR": ["yes"]})))


def test_what_is_no_mme_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="'total'"):
        Mme(source, report="total")
    rows = [
        {"question_id": "1", "question": str(i), "answer": "Yes", "category": "color", "image": color(0)}
        for i in range(3)
    ]
    with pytest.raises(ValueError, match="asks 3 questions about 1"):
        Mme(str(parquet(tmp_path / "three", "test", rows)))
    strange = Mme(str(parquet(tmp_path / "strange", "test", [{**rows[0], "category": "taste"}])))
    with pytest.raises(ValueError, match="'taste'"):
        strange[0]
