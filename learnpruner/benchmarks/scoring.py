"""Rules that several benchmarks score by: VQA accuracy, exact match, and the letter of an option."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from learnpruner.benchmarks.base import ARTICLES, NUMBERS

MARKS = ';/[]"{}()=+\\_-><@`!'
FULL_STOP = re.compile(r"\.(?!\d)")  # 3.5 and .5 keep theirs


def _contractions() -> dict[str, str]:
    """Contractions without their apostrophe -> with it; words that are also others (its, were, ill) stay out."""
    stems = {
        "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
        "'ve": "could might must should what where who would they we you",
        "'ll": "how it somebody someone something that they what who why you",
        "'re": "they there what why you",
        "'s": "he how someone that there what when where who why",
        "'d": "he how it there they where who someone something you",
    }
    made = {stem + end.replace("'", ""): stem + end for end, words in stems.items() for stem in words.split()}
    return made | {"oclock": "o'clock", "maam": "ma'am", "twas": "'twas", "yall": "y'all"}


CONTRACTIONS = _contractions()


def until(prediction: str, stop: str = "ASSISTANT:") -> str:
    """The answer up to where a model starts to talk to itself."""
    return prediction.split(stop)[0].strip()


def vqa_normalise(answer: str) -> str:
    """The form in which VQA accuracy compares answers: the rule of EvalAI's processor.

    Lower case; commas and question marks dropped; other marks dropped if one of their kind stands beside a blank in the
    answer as given, else a blank;
    full stops dropped unless a digit follows; number words as digits; no articles; contractions with apostrophe.
    Contractions of three words ("couldnt've") and a split-off "'s" are left as they are.
    """
    text = given = " ".join(answer.lower().replace(",", "").replace("?", "").split())
    for mark in MARKS:
        text = text.replace(mark, "" if f"{mark} " in given or f" {mark}" in given else " ")
    words = [NUMBERS.get(word, word) for word in FULL_STOP.sub("", text).split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Mean over the human answers of min(matches among the others / 3, 1), after normalisation."""
    given, humans = vqa_normalise(prediction), [vqa_normalise(answer) for answer in answers]
    matches = sum(human == given for human in humans)
    credits = [min((matches - (human == given)) / 3, 1.0) for human in humans]
    return sum(credits) / len(credits)


def human_answers(cell: Sequence[str | Mapping[str, str]]) -> list[str]:
    """A column `answers`: texts, or records with the text under "answer"."""
    return [one if isinstance(one, str) else one["answer"] for one in cell]


def exact_match(prediction: str, answer: str) -> float:
    """1 where both are equal but for case, punctuation and blanks around them."""
    drop = str.maketrans("", "", string.punctuation)
    return float(prediction.lower().translate(drop).strip() == answer.lower().translate(drop).strip())


def options_text(options: Mapping[str, str]) -> str:
    """One option a line: "A. red"."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


def option_letter(prediction: str, options: Mapping[str, str]) -> str | None:
    """The option that an answer names, None where it is unclear.

    Its letter where exactly one stands alone ("B", "B.", "(B)", "the answer is B"); a lone "A" in more than three words
    may be an article and is not trusted. Otherwise the only option whose text the answer contains.
    """
    letters = set(re.findall(rf"(?<![\w'])[{''.join(options)}](?![\w'])", prediction))
    starts = re.match(rf"\s*\(?([{''.join(options)}])[.,:)]", prediction)
    if starts:
        return starts.group(1)
    if len(letters) == 1 and not (letters == {"A"} and len(prediction.split()) > 3):
        return letters.pop()
    said = [letter for letter, text in options.items() if text.strip().lower() in prediction.lower()]
    return said[0] if len(said) == 1 else None
