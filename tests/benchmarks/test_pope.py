"""POPE: LLaVA's parser and lmms-eval's, F1 and accuracy by split, by hand."""

import pytest

from learnpruner.benchmarks.pope import Pope, llava_yes_no, strict_yes_no
from tests.tiny_benchmarks import pope


@pytest.fixture
def source(tmp_path):
    return str(pope(tmp_path))


@pytest.mark.parametrize(
    ("prediction", "llava", "strict"),
    [
        ("Yes", "yes", "yes"),
        ("no", "no", "no"),
        (" No ", "no", "no"),
        ("No.", "no", "other"),
        ("No\n", "no", "no"),
        ("\n\nNo, never", "no", "other"),
        ("No, there is none", "no", "other"),
        ("There is not a dog", "no", "other"),
        ("Yes. No dog is there", "yes", "other"),
        ("NO", "yes", "no"),
        ("Nothing", "yes", "other"),
        ("a dog", "yes", "other"),
        ("", "yes", "other"),
    ],
)
def test_parsers(prediction, llava, strict):
    """LLaVA's looks for No, no and not in the first sentence, and takes everything else for yes."""
    assert (llava_yes_no(prediction), strict_yes_no(prediction)) == (llava, strict)


def answered(benchmark, said):
    """said: category -> answers to yes, no, yes, no."""
    kinds = {kind: iter(words) for kind, words in said.items()}
    examples = [benchmark[i] for i in range(len(benchmark))]
    return [benchmark.answered(one, next(kinds[one.kind])) for one in examples if one.kind in said]


SAID = {
    "adversarial": ["Yes", "Yes", "Yes", "No"],
    "popular": ["No", "No", "Yes", "No"],
    "random": ["No", "Yes", "No", "Yes"],
}


def test_f1_and_accuracy_by_split(source):
    """adversarial: TP 2, FP 1, FN 0 -> 4/5. popular: TP 1, FP 0, FN 1 -> 2/3. random: no TP -> 0."""
    benchmark = Pope(source)
    found = benchmark.metrics(answered(benchmark, SAID))
    expected = {"f1 adversarial": 80, "f1 popular": 200 / 3, "f1 random": 0, "accuracy adversarial": 75}
    expected |= {"accuracy popular": 75, "accuracy random": 0, "score": (80 + 200 / 3) / 3, "accuracy": 50}
    expected |= {"precision": 50, "recall": 50, "f1 pooled": 50, "yes ratio": 50}
    assert found == pytest.approx(expected)


def test_accuracy_can_be_the_score(source):
    benchmark = Pope(source, report="accuracy")
    assert benchmark.metrics(answered(benchmark, SAID))["score"] == pytest.approx(50)


def test_splits_that_a_limit_left_out_do_not_count(source):
    benchmark = Pope(source)
    assert benchmark.total(answered(benchmark, {"adversarial": SAID["adversarial"]})) == pytest.approx(80)


def test_an_unreadable_answer_is_wrong_and_a_missed_positive(source):
    benchmark = Pope(source, parser="strict")
    found = benchmark.metrics(answered(benchmark, {"random": ["maybe", "maybe", "yes", "no"]}))
    assert (found["accuracy"], found["precision"], found["recall"]) == pytest.approx((50, 100, 50))


def test_the_unit_of_the_bootstrap_is_the_image(source):
    benchmark = Pope(source)
    assert len(benchmark.sums(answered(benchmark, SAID))) == 2


def test_ids_differ_though_question_ids_repeat_in_each_split(source):
    benchmark = Pope(source)
    assert len({benchmark[i].id for i in range(12)}) == 12


def test_bad_settings_and_rows_are_refused(source):
    with pytest.raises(ValueError, match="'f2'"):
        Pope(source, report="f2")
    with pytest.raises(ValueError, match="llava, strict"):
        Pope(source, parser="x")
    benchmark = Pope(source)
    with pytest.raises(ValueError, match="category 'rare'"):
        benchmark.example({**benchmark.rows[0], "category": "rare"})
    with pytest.raises(ValueError, match="answer 'maybe'; POPE's are yes and no"):
        benchmark.example({**benchmark.rows[0], "answer": "maybe"})


@pytest.mark.parametrize("column", ["question", "answer"])
def test_a_row_without_its_question_or_answer_is_refused(column, source):
    benchmark = Pope(source)
    rows = [{**row, column: None} for row in benchmark.rows]
    benchmark.rows = rows
    with pytest.raises(ValueError, match=f"Row 1 of .* has no {column}: a split whose answers are kept back"):
        benchmark[1]
