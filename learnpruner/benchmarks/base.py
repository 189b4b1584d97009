"""What a benchmark is: examples, the text that is asked and the rule that scores an answer."""

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from PIL import Image

ARTICLES = frozenset({"a", "an", "the"})
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS = {word: str(value) for value, word in enumerate(DIGIT_WORDS)} | {"none": "0"}
OUTER_PUNCTUATION = re.compile(r"(?<!\d)[^\w\s]|[^\w\s](?!\d)")  # 3.5 and 1,000 keep theirs


def normalise_answer(answer: str) -> str:
    """The form in which answers are compared: lower case, no articles or punctuation, number words as digits.

    The rule of VQA accuracy without its list of contractions. An answer that is nothing but an article stays.
    """
    words = OUTER_PUNCTUATION.sub(" ", answer.lower()).split()
    kept = [word for word in words if word not in ARTICLES] or words
    return " ".join(NUMBER_WORDS.get(word, word) for word in kept)


UNTOLD = uuid4().hex  # in place of what nothing tells another process: only this one uses such answers again
VisualInput = Image.Image | list[Image.Image]  # a picture, or the frames of a video


@dataclass(frozen=True)
class Example:
    """One question about one image or video.

    Args:
        kind: group of questions that gets its own accuracy.
        scene: what the bootstrap resamples, usually the image.
        id: unique in its benchmark.
        facts: what the scoring rule needs beside the answer, JSON-ready.
    """

    image: VisualInput
    question: str
    answer: str
    kind: str
    scene: int | str
    id: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AnsweredExample:
    """A sample with the model's answer, as it is kept on disk. The fields are those of Example."""

    id: str
    kind: str
    scene: int | str
    question: str
    answer: str
    prediction: str
    score: float
    facts: Mapping[str, Any]


class Benchmark(ABC):
    """A sequence of examples with the question's wording and the scoring rule."""

    name: str
    kinds: tuple[str, ...]
    max_new_tokens: int = 32  # longest answer, where nobody says more

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Example: ...

    def arguments(self) -> dict[str, Any]:
        """Tell the constructor's arguments, JSON-ready: answers to the same ones can be used again. One that the object does not keep is `UNTOLD`."""
        names = [*inspect.signature(type(self)).parameters]
        values = {name: getattr(self, name, UNTOLD) for name in names}
        plain = (str, int, float, bool, type(None))
        return {name: value if isinstance(value, plain) else repr(value) for name, value in values.items()}

    def wording(self, question: str) -> str:
        """The text put before the model in place of the bare question."""
        return question

    def score(self, prediction: str, example: Example) -> float:
        """Credit in [0, 1] for a predicted answer: exact match after normalisation."""
        return float(normalise_answer(prediction) == normalise_answer(example.answer))

    def answered(self, example: Example, prediction: str) -> AnsweredExample:
        """What is kept of a sample: the answer and its score, without the picture."""
        one, score = example, self.score(prediction, example)
        return AnsweredExample(
            one.id, one.kind, one.scene, one.question, one.answer, prediction, score, dict(one.facts)
        )
