"""VQA accuracy, exact match and option letters on cases worked out by hand."""

import random

import pytest

from learnpruner.benchmarks.scoring import (
    _CONTRACTIONS,
    exact_match,
    human_answers,
    option_letter,
    truncate_answer,
    vqa_accuracy,
    vqa_normalise,
)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("  The Red\nhat ", "red hat"),
        ("an apple a day", "apple day"),
        ("The", ""),
        ("two dogs", "2 dogs"),
        ("None", "0"),
        ("ten", "10"),
        ("twenty", "twenty"),
        ("1,000", "1000"),
        ("red, blue", "red blue"),
        ("3.5", "3.5"),
        ("3.5.", "3.5"),
        ("U.S.", "us"),
        ("dont", "don't"),
        ("don't", "don't"),
        ("couldnt've", "couldn't've"),
        ("the dog's", "dog 's"),
        ("whats up?", "what's up"),
        ("its", "its"),
        ("t-shirt", "t shirt"),
        ("black - white", "black white"),
        ("red/blue", "red blue"),
        ("red - dark-blue", "red darkblue"),
        ("x/-y c-d", "x y c d"),
        ("10:30", "10:30"),
        ('"stop"', "stop"),
        ("", ""),
    ],
)
def test_the_form_in_which_answers_are_compared(answer, normal):
    assert vqa_normalise(answer) == normal


def test_contractions_leave_words_alone_that_are_others():
    assert not {"its", "were", "well", "ill", "hell", "shell", "id", "wed", "shed", "lets"} & set(_CONTRACTIONS)
    assert all(with_mark.replace("'", "") == without.replace("'", "") for without, with_mark in _CONTRACTIONS.items())


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_each_human_is_left_out_in_turn(matches, accuracy):
    """1 match: nine of ten times one third. 3 matches: seven times 1, three times two thirds."""
    answers = ["yes"] * matches + [f"other {i}" for i in range(10 - matches)]
    assert vqa_accuracy("Yes.", answers) == pytest.approx(accuracy)


def test_vqa_accuracy_equals_the_plain_loop():
    words = ["red", "The red", "two", "2", "blue", "dont", "don't"]
    draw = random.Random(0)
    for _ in range(50):
        answers, given = draw.choices(words, k=10), draw.choice(words)
        credits = []
        for left_out in range(10):
            others = [vqa_normalise(answer) for i, answer in enumerate(answers) if i != left_out]
            credits.append(min(others.count(vqa_normalise(given)) / 3, 1))
        assert vqa_accuracy(given, answers) == pytest.approx(sum(credits) / 10)


def test_human_answers_are_texts_or_records():
    assert human_answers(["a", "b"]) == human_answers([{"answer": "a", "answer_id": 1}, {"answer": "b"}]) == ["a", "b"]


@pytest.mark.parametrize(
    ("prediction", "answer", "credit"),
    [
        ("Blue.", "blue", 1.0),
        (" blue", "Blue", 1.0),
        ("light blue", "blue", 0.0),
        ("the blue", "blue", 0.0),
        ("", "a", 0),
    ],
)
def test_exact_match_ignores_case_and_punctuation_only(prediction, answer, credit):
    assert exact_match(prediction, answer) == credit


def test_an_answer_ends_where_the_model_goes_on_by_itself():
    assert truncate_answer(" red ASSISTANT: blue") == "red"
    assert truncate_answer("red\n") == "red"


OPTIONS = {"A": "a cat", "B": "two dogs", "C": "dogs"}


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("B", "B"),
        (" B.", "B"),
        ("(C) dogs", "C"),
        ("C: it is B", "C"),
        ("The answer is B.", "B"),
        ("A", "A"),
        ("A dog barks", "A"),
        ("A dog barks now", None),
        ("A dog is not there", None),
        ("Picture A shows two dogs", None),
        ("The answer is A.", "A"),
        ("The answer is A", "A"),
        ("The answer is A because of it", "A"),
        ("I think that it is (A). Yes", "A"),
        ("It is clear:\nA\nas you see", "A"),
        ("Option A is right here", "A"),
        ("The correct answer is **A**.", "A"),
        ("The answer is B, not A", "B"),
        ('The answer is "A".', "A"),
        ("答案是A。", "A"),
        ("B超", None),
        ("B-52 is there", None),
        ("It shows a cat", "A"),
        ("two dogs", None),
        ("Dogs", "C"),
        ("A or B", None),
        ("D", None),
        ("b", None),
        ("Both", None),
        ("", None),
    ],
)
def test_the_letter_of_an_option(prediction, letter):
    """ "two dogs" also holds the text of option C, so that it names none."""
    assert option_letter(prediction, OPTIONS) == letter
