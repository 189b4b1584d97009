"""ChartQA: questions about charts, half of them by people; the test split. https://arxiv.org/abs/2203.10244"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learnpruner.benchmarks.base import Example
from learnpruner.benchmarks.public import PublicBenchmark
from learnpruner.benchmarks.rows import picture_key
from learnpruner.benchmarks.scoring import truncate_answer

_ENDING = "\nAnswer the question with a single word."


def chart_number(text: str) -> float | None:
    """The number that a text is, percent as hundredths; None where it is none."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed_match(prediction: str, answer: str, tolerance: float = 0.05) -> bool:
    """Tell whether an answer is right: a number within the tolerance, any other text and zero letter by letter in any case.

    Args:
        prediction: the answer.
        answer: the right one.
        tolerance: share of the right number that an answer may lie off; higher forgives more.
    """
    given, right = chart_number(prediction), chart_number(answer)
    if given is None or not right:
        return prediction.lower() == answer.lower()
    return abs(given - right) / abs(right) <= tolerance


class Chartqa(PublicBenchmark):
    """Relaxed accuracy over both halves; each half's stands among the metrics."""

    name, title = "chartqa", "ChartQA"
    metric = "relaxed accuracy on test (5 % off a number is right)"
    columns = ("type", "question", "answer", "image")

    def __init__(
        self,
        source: str = "lmms-lab/ChartQA",
        split: str = "test",
        config: str | None = None,
        max_new_tokens: int = 16,
    ) -> None:
        super().__init__(source, split, config, max_new_tokens)

    def example(self, row: Mapping[str, Any]) -> Example:
        kind = "human" if row["type"] == "human_test" else "augmented"
        image, scene, name = self.picture(row["image"]), picture_key(row["image"]), str(row["row"])
        return Example(image, row["question"] + _ENDING, row["answer"], kind, scene, name)

    def score(self, prediction: str, example: Example) -> float:
        return float(relaxed_match(truncate_answer(prediction), example.answer))
