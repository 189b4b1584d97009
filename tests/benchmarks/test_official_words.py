"""Free answers, thousands of nasty ones: VQA accuracy, exact match and the short form against plain re-derivations."""

import random
from statistics import mean

import pytest

from learnpruner.benchmarks.base import normalise_answer
from learnpruner.benchmarks.gqa import Gqa
from learnpruner.benchmarks.msvd import Msvd
from learnpruner.benchmarks.scoring import exact_match, vqa_accuracy, vqa_normalise
from learnpruner.benchmarks.textvqa import Textvqa
from learnpruner.benchmarks.vizwiz import Vizwiz
from learnpruner.benchmarks.vqav2 import Vqav2
from tests.benchmarks.nasty import free_answers
from tests.benchmarks.official import CONTRACTED, bare, official_vqa_accuracy, official_vqa_form, plain_short_form
from tests.tiny_benchmarks import MAKERS, video


def test_the_form_of_vqa_answers():
    for answer in (*free_answers(4000), *CONTRACTED, *(word.replace("'", "") for word in CONTRACTED)):
        assert vqa_normalise(answer) == official_vqa_form(answer), repr(answer)


def test_vqa_accuracy():
    draw, answers = random.Random(1), list(free_answers(600, seed=1))
    for _ in range(400):
        few = draw.sample(answers, 3)
        humans = [draw.choice((few[0], few[0], few[1], few[2], few[0].upper(), f"the {few[1]}")) for _ in range(10)]
        given = draw.choice((*few, f" {few[0]}.", "red"))
        assert vqa_accuracy(given, humans) == pytest.approx(official_vqa_accuracy(given, humans)), (given, humans)


@pytest.mark.parametrize("kind", [Vqav2, Vizwiz, Textvqa])
def test_the_vqa_benchmarks_cut_the_answer_and_average(kind, tmp_path):
    benchmark = kind(str(MAKERS[kind.name](tmp_path)))
    examples, answers, expected = [benchmark[number] for number in range(4)], [], []
    for number, given in enumerate(free_answers(300, seed=2)):
        one = examples[number % 4]
        answers.append(benchmark.answered(one, given))
        expected.append(official_vqa_accuracy(given.split("ASSISTANT:")[0], one.facts["answers"]))
        assert answers[-1].score == pytest.approx(expected[-1]), repr(given)
    assert benchmark.total(answers) == pytest.approx(100 * mean(expected))


def test_gqa_is_exact_match_without_case_and_punctuation(tmp_path):
    """As lmms-eval's exact_match with ignore_case and ignore_punctuation, blanks at the ends dropped."""
    benchmark, answers = Gqa(str(MAKERS["gqa"](tmp_path))), list(free_answers(3000, seed=3))
    draw, right = random.Random(3), []
    for given in answers:
        answer = draw.choice((given, given.title(), f"{given}!", "blue"))
        assert exact_match(given, answer) == (bare(given) == bare(answer)), repr((given, answer))
        right.append(bare(given) == "blue")
    one = benchmark[0]
    found = [benchmark.answered(one, given) for given in (*answers, "Blue.")]
    assert benchmark.total(found) == pytest.approx(100 * mean([*right, True]))


def test_videos_without_a_judge(tmp_path):
    benchmark, right = Msvd(str(video(tmp_path))), []
    examples, found = [benchmark[number] for number in range(4)], []
    for number, given in enumerate(free_answers(3000, seed=9)):
        said = given.split("ASSISTANT:")[0]
        assert normalise_answer(said) == plain_short_form(said), repr(said)
        given = given if number % 3 else f"The answer: {number % 4}. ASSISTANT: no"
        right.append(plain_short_form(given.split("ASSISTANT:")[0]) == f"answer {number % 4}")
        found.append(benchmark.answered(examples[number % 4], given))
    assert benchmark.total(found) == pytest.approx(100 * mean(right)) and any(right)
