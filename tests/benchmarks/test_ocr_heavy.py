"""OCRBench, ChartQA, DocVQA, AI2D and MMStar: scores computed by hand, and rules against plain re-derivations."""

from functools import cache

import numpy as np
import pytest

from learnpruner.benchmarks.ai2d import Ai2d
from learnpruner.benchmarks.chartqa import Chartqa, relaxed_match
from learnpruner.benchmarks.docvqa import Docvqa, edit_distance, normalised_similarity
from learnpruner.benchmarks.mmstar import Mmstar, mmstar_letter
from learnpruner.benchmarks.ocrbench import Ocrbench
from tests.benchmarks.nasty import choice_answers, free_answers
from tests.tiny_benchmarks import ai2d, chartqa, color, docvqa, mmstar, ocrbench, parquet


def answers_of(benchmark, *said):
    return [benchmark.answered(benchmark[i], text) for i, text in enumerate(said)]


def test_ocrbench_looks_for_a_right_answer_in_what_was_said(tmp_path):
    benchmark = Ocrbench(str(ocrbench(tmp_path)))
    regular, irregular, form, formula = (benchmark[i] for i in range(4))
    assert [benchmark.score(said, regular) for said in ("It says STOP!", "Halt", "sto\np", "")] == [1, 1, 0, 0]
    assert [benchmark.score(said, irregular) for said in ("ab 1", "ＡＢ　１", "ab1")] == [1, 1, 0]
    assert [benchmark.score(said, form) for said in ("$ 40.00", "140", "forty")] == [1, 1, 0]
    assert [benchmark.score(said, formula) for said in ("x^{2}+Y", "= x ^ {2}\n + Y", "x^{2}+y")] == [1, 1, 0]


def test_ocrbench_sums_its_groups_to_a_thousand(tmp_path):
    benchmark = Ocrbench(str(ocrbench(tmp_path)))
    answered = answers_of(benchmark, "stop", "no", "40", "x^{2}+Y")
    found = benchmark.metrics(answered)
    assert found["score"] == pytest.approx(750)
    assert (found["Text Recognition"], found["Key Information Extraction"]) == (1, 1)
    assert found["Handwritten Mathematical Expression Recognition"] == 1 and np.isnan(found["Doc-oriented VQA"])
    assert found["Irregular Text Recognition, %"] == 0
    assert benchmark.caption(found).endswith("3 of the 5 groups alone")


def test_ocrbench_takes_a_text_as_the_only_answer_and_refuses_an_unknown_kind(tmp_path):
    row = {"dataset": "X", "question": "what?", "question_type": "Doc-oriented VQA", "answer": "Ink", "image": color(0)}
    benchmark = Ocrbench(str(parquet(tmp_path / "a", "test", [row])))
    assert benchmark.score("black ink", benchmark[0]) == 1
    other = Ocrbench(str(parquet(tmp_path / "b", "test", [{**row, "question_type": "Poetry"}])))
    with pytest.raises(ValueError, match="'Poetry', which is none"):
        other[0]


@pytest.mark.parametrize(
    ("said", "right", "credit"),
    [
        ("25", "25", True),
        ("26.25", "25", True),
        ("26.26", "25", False),
        ("23.75", "25", True),
        ("-25", "25", False),
        ("12.5%", "12.5%", True),
        ("13%", "12.5%", True),
        ("0.125", "12.5%", True),
        ("12.5", "12.5%", False),
        ("yes", "Yes", True),
        ("yes.", "Yes", False),
        ("0", "0", True),
        ("0.0", "0", False),
        ("1,000", "1000", False),
        ("nan", "25", False),
        ("", "25", False),
    ],
)
def test_relaxed_accuracy(said, right, credit):
    assert relaxed_match(said, right) is credit


def test_chartqa_tells_its_halves_apart(tmp_path):
    benchmark = Chartqa(str(chartqa(tmp_path)))
    found = benchmark.metrics(answers_of(benchmark, "24", "yes", "1%", "0"))
    assert (found["score"], found["human"], found["augmented"]) == (75, 50, 100)


def test_anls_by_hand(tmp_path):
    """march 1983 against march 1982: one letter of ten. Half of a text is the least that counts."""
    benchmark = Docvqa(str(docvqa(tmp_path)))
    date, price, name = (benchmark[i] for i in range(3))
    assert benchmark.score("March  1982", date) == pytest.approx(1 - 1 / 11)  # lengths are counted with all blanks
    assert benchmark.score("MAR. 1983", date) == 1
    assert [benchmark.score(said, price) for said in ("$5", "5", "6")] == [1, 0.5, 0]
    assert benchmark.score("", name) == 0
    assert benchmark.metrics(answers_of(benchmark, "mar. 1983", "5", "x"))["score"] == pytest.approx(50)


def test_edit_distance_is_levenshteins():
    @cache
    def plain(first, second):
        if not first or not second:
            return len(first) + len(second)
        rest = plain(first[1:], second[1:]) + (first[0] != second[0])
        return min(rest, plain(first[1:], second) + 1, plain(first, second[1:]) + 1)

    texts = [answer[:9] for answer in free_answers(60, seed=4)]
    for first, second in zip(texts, reversed(texts), strict=True):
        assert edit_distance(first, second) == plain(first, second)
        assert normalised_similarity(first, [first]) == 1


def test_a_page_whose_answers_are_kept_back_is_refused(tmp_path):
    rows = [{"questionId": "1", "question": "what?", "answers": [], "image": color(0)}]
    one = {**rows[0], "answers": ["a"]}
    benchmark = Docvqa(str(parquet(tmp_path / "DocVQA", "validation", [*rows, one]).parent))
    assert benchmark[1].answer == "a"
    with pytest.raises(ValueError, match="has no answers"):
        benchmark[0]


def test_ai2d_reads_the_letter_in_front_or_the_whole_answer(tmp_path):
    benchmark = Ai2d(str(ai2d(tmp_path)))
    assert [benchmark[i].answer for i in range(3)] == ["A", "B", "A"]
    said = ("B", "b", "B.", " B. toad", "(B)", "B toad", "A. toad", "The answer is B", "")
    assert [benchmark.score(one, benchmark[1]) for one in said] == [1, 1, 1, 1, 1, 0, 0, 0, 0]


def lmms_mmstar(answer):
    """lmms-eval's order of candidates, each with its rank and place: the highest rank, then the last place."""
    text = answer.strip()
    for mark in (",", ".", "!", "?", ";", ":", "'", '"'):
        while text.startswith(mark):
            text = text[len(mark) :]
        while text.endswith(mark):
            text = text[: -len(mark)]
    text = f" {text} "
    bare, candidates = text.strip(), []
    nouns = {"answer": ("", "the ", "correct ", "the correct ", "best ", "the best ", "my ")}
    nouns |= {
        "option": ("correct ", "the correct ", "best ", "the best "),
        "choice": ("", "the ", "correct ", "the correct ", "my "),
    }
    phrases = [f"{front}{noun} is" for noun, fronts in nouns.items() for front in fronts]
    phrases += ["i choose", "i select", "i pick", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"]
    for letter in "ABCD":
        for rank, form in (
            (6, f"({letter})"),
            (5, f"{letter}."),
            (4, f"{letter}:"),
            (3, f"{letter})"),
            (2, f"{letter} "),
            (0, letter),
        ):
            if form in text:
                candidates.append((rank, text.rindex(form), letter))
        for phrase in phrases:
            if phrase in text.lower():
                place = text.find(letter, text.lower().index(phrase) + len(phrase))
                candidates += [(7, place, letter)] if place >= 0 else []
        if bare.startswith(letter) and not bare[1:2].isalpha():
            candidates.append((10, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            candidates.append((9, len(text), letter))
    return max(candidates)[2] if candidates else None


def test_mmstar_letters():
    options = {"A": "cat", "B": "dog", "C": "a Bird", "D": "none"}
    for said in (*choice_answers(options, 4000, seed=5), *free_answers(2000, seed=5)):
        assert mmstar_letter(said) == lmms_mmstar(said), repr(said)
    assert [mmstar_letter(said) for said in ("B", "B. dog", "it is B", "(C)", "b", "")] == [
        "B",
        "B",
        "B",
        "C",
        None,
        None,
    ]


def test_mmstar_is_the_mean_over_subjects_of_unequal_size(tmp_path):
    """Geometry 1 of 1, statistics 1 of 3, emotion 0 of 1."""
    benchmark = Mmstar(str(mmstar(tmp_path)))
    found = benchmark.metrics(answers_of(benchmark, "A", "B. b1", "D", "no", "C"))
    assert found["score"] == pytest.approx(100 * (1 + 1 / 3 + 0) / 3)
    assert (found["math"], found["coarse perception"]) == (pytest.approx(100 * (1 + 1 / 3) / 2), 0)
    assert benchmark.caption(found) == benchmark.metric
    few = benchmark.metrics(answers_of(benchmark, "A", "B"))
    assert few["score"] == 100 and benchmark.caption(few).endswith("2 of 3 alone")
