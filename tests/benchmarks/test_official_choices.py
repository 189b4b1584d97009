"""Options, thousands of nasty answers: ScienceQA, SEED and MMBench in both languages against plain re-derivations."""

import random
from statistics import mean

import pytest

from learnpruner.benchmarks.base import Example
from learnpruner.benchmarks.mmbench import Mmbench
from learnpruner.benchmarks.mmbench_cn import MmbenchCn
from learnpruner.benchmarks.scienceqa import Scienceqa, answered_letter
from learnpruner.benchmarks.scoring import option_letter
from learnpruner.benchmarks.seed import SeedBench
from tests.benchmarks.nasty import SENTENCES, choice_answers, free_answers
from tests.benchmarks.official import llava_science, lmms_option, vlmevalkit_option
from tests.tiny_benchmarks import MAKERS, color

OPTIONS = {"A": "a cat", "B": "two dogs", "C": "red paint", "D": "13"}
CHINESE = {"A": "猫", "B": "两只狗", "C": "红色油漆", "D": "十三"}


def test_scienceqa(tmp_path):
    benchmark = Scienceqa(str(MAKERS["scienceqa"](tmp_path)))
    answers = [*choice_answers(OPTIONS, 2000, seed=6), *free_answers(1000, seed=6)]
    for given in answers:
        assert answered_letter(given) == llava_science(given), repr(given)
    examples = [benchmark[number] for number in range(2)]
    found = [benchmark.answered(examples[number % 2], given) for number, given in enumerate(answers)]
    right = [llava_science(given) == "AB"[number % 2] for number, given in enumerate(answers)]
    assert benchmark.total(found) == pytest.approx(100 * mean(right)) and any(right)


def test_seed_reads_the_first_character_as_lmms_eval_does(tmp_path):
    benchmark = SeedBench(str(MAKERS["seed"](tmp_path)))
    examples, found, right = [benchmark[number] for number in range(3)], [], []
    for number, given in enumerate((*choice_answers(OPTIONS, 2000, seed=7), *free_answers(1000, seed=7))):
        one, said = examples[number % 3], given.split("ASSISTANT:")[0].strip()
        right.append(said != "" and said[0].lower() == one.answer.lower())
        found.append(benchmark.answered(one, given))
        assert found[-1].score == right[-1], repr(given)
    assert benchmark.total(found) == pytest.approx(100 * mean(right)) and any(right)


@pytest.mark.parametrize("options", [OPTIONS, CHINESE], ids=["en", "cn"])
def test_mmbench_reads_what_both_evaluations_read_and_only_what_stands_there(options):
    """A letter that we read stands alone between blanks or marks, or in a Chinese sentence; or its text is the only one."""
    agreed = 0
    for given in (*choice_answers(options, 4000, seed=8), *free_answers(2000, seed=8)):
        lmms, kit, ours = lmms_option(given, options), vlmevalkit_option(given, options), option_letter(given, options)
        if lmms == kit and lmms in options:
            agreed += 1
            assert ours == lmms, repr(given)
        words = "".join(" " if letter in ".()[],:;!*#{}\"'" else letter for letter in given).split()
        shown = [letter for letter, text in options.items() if text in given.lower()]
        assert ours is None or ours in words or shown == [ours] or {"答", "选"} & set(given), repr(given)
    assert agreed > 1500


@pytest.mark.parametrize("options", [OPTIONS, CHINESE], ids=["en", "cn"])
@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_model_that_is_always_right_is_always_read(sentence, options):
    for letter, text in options.items():
        assert option_letter(sentence.format(letter, text), options) == letter


@pytest.mark.parametrize("kind", [Mmbench, MmbenchCn])
def test_mmbench_counts_a_question_where_every_rotation_is_right(kind, tmp_path):
    benchmark, draw = kind(str(MAKERS[kind.name](tmp_path))), random.Random(10)
    answers, hits, first = [], [], []
    for number in range(300):
        rotations, right = draw.randint(2, 4), []
        for turn in range(rotations):
            facts = {"options": OPTIONS, "rotations": rotations, "L2-category": "one"}
            one = Example(
                color(0), "?", draw.choice("ABCD"), "naming", str(number), str(number + 1_000_000 * turn), facts
            )
            given = f"The answer is {one.answer}." if draw.random() < 0.8 else next(choice_answers(OPTIONS, 1, number))
            answers.append(benchmark.answered(one, given))
            right.append(option_letter(given, OPTIONS) == one.answer)
        hits.append(all(right))
        first.append(right[0])
    draw.shuffle(answers)
    found = benchmark.metrics(answers)
    assert found["score"] == found["one"] == pytest.approx(100 * mean(hits)) and any(hits)
    assert found["accuracy without rotations"] == pytest.approx(100 * mean(first))
