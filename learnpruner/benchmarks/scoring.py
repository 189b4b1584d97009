"""Rules that several benchmarks score by: VQA accuracy, exact match, and the letter of an option."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from learnpruner.benchmarks.base import ARTICLES, NUMBER_WORDS

_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
_FULL_STOP = re.compile(r"\.(?!\d)")  # 3.5 and .5 keep theirs
_LABEL_MARKS = re.escape(".()[],:;!*#{}。，：；！（）、")  # may stand beside the letter of an option
_BEFORE_LETTER = rf"(?<![^\s{_LABEL_MARKS}\u4e00-\u9fff])"  # Chinese puts no blank before it
_BEHIND_LETTER = rf"(?![^\s{_LABEL_MARKS}])"


def _contractions() -> dict[str, str]:
    """The contractions of the official VQA evaluation: each without one of its apostrophes -> with it.

    Words that are also others (its, were, ill) are not among them, and "somebody'd" goes the other way round there.
    """
    stems = {
        "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
        "'ve": "could might must not should they we what where who would you",
        "'ll": "how it somebody someone something they what who why y'all you",
        "'re": "there they what why you",
        "'s": "he how somebody someone that there what when where who why",
        "'d": "he how it someone something there they where who you",
        "n't've": "could had might should would",
        "'d've": "he it she somebody someone something there they we who y'all you",
        "": "o'clock ma'am 'twas y'all",
    }
    words = [stem + end for end, some in stems.items() for stem in some.split()]
    places = [(word, place) for word in words for place, letter in enumerate(word) if letter == "'"]
    return {word[:place] + word[place + 1 :]: word for word, place in places} | {"somebody'd": "somebodyd"}


_CONTRACTIONS = _contractions()


def truncate_answer(prediction: str, stop: str = "ASSISTANT:") -> str:
    """The answer up to where a model starts to talk to itself."""
    return prediction.split(stop)[0].strip()


def vqa_normalise(answer: str) -> str:
    """The form in which VQA accuracy compares answers: the rule of EvalAI's processor, as LLaVA's scripts and lmms-eval have it.

    Lower case; commas and question marks dropped; "'s" a word of its own; other marks dropped if one of their kind stands
    beside a blank in the answer as given, else a blank; full stops dropped unless a digit follows; number words as digits;
    no articles; contractions with apostrophe.
    """
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = given = text.replace("\n", " ").replace("\t", " ").strip()
    for mark in _PUNCTUATION:
        text = text.replace(mark, "" if f"{mark} " in given or f" {mark}" in given else " ")
    words = [NUMBER_WORDS.get(word, word) for word in _FULL_STOP.sub("", text).split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


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
    """The option that an answer names, None where it is unclear: what lmms-eval's and VLMEvalKit's rules for MMBench agree on.

    In this order: the letter with its mark in front ("B.", "(B)"), the only one behind "answer is", the only one that stands
    alone, the only option whose text the answer contains. A bare "A" before another word, in more than three words, may be an
    article and is trusted behind "option" or "choice" alone.
    """
    letters = "".join(options)
    said = re.sub(rf"[\"'“”‘’]([{letters}])[\"'“”‘’]", r"(\1)", prediction)
    starts = re.match(rf"\s*\(?([{letters}])[.,:)]", said)
    if starts:
        return starts.group(1)
    called = set(re.findall(rf"\b[Aa]nswer(?: is|:)[\s*(:]*([{letters}]){_BEHIND_LETTER}", said))
    if len(called) == 1:
        return called.pop()
    alone = list(re.finditer(rf"{_BEFORE_LETTER}[{letters}]{_BEHIND_LETTER}", said))
    named = {one.group() for one in alone}
    article = named == {"A"} and len(said.split()) > 3 and all(is_ambiguous_article(one) for one in alone)
    if len(named) == 1 and not article:
        return named.pop()
    shown = [letter for letter, text in options.items() if text.strip().lower() in prediction.lower()]
    return shown[0] if len(shown) == 1 else None


def is_ambiguous_article(letter: re.Match[str]) -> bool:
    """Whether a word follows on the same line, and nothing in front, a colon or "option", calls the letter an option."""
    before, behind = letter.string[: letter.start()], letter.string[letter.end() :]
    return re.match(r"[^\S\n]+\w", behind) is not None and not re.search(r"(?::|\b(?:[Oo]ption|[Cc]hoice)\s+)$", before)
