"""AI2D: diagrams of school science; multiple choice on the test split. https://arxiv.org/abs/1603.07396"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Any

from learnpruner.benchmarks.base import Example
from learnpruner.benchmarks.public import LETTER_ANSWER_PROMPT, PublicBenchmark
from learnpruner.benchmarks.rows import picture_key
from learnpruner.benchmarks.scoring import exact_match, options_text, truncate_answer

_LETTER_IN_FRONT = re.compile(r"([A-Z])\.")


class Ai2d(PublicBenchmark):
    """Accuracy: an answer that starts with "X." is that letter; any other is compared without case and punctuation."""

    name, title = "ai2d", "AI2D"
    metric = "accuracy on test"
    columns = ("question", "options", "answer", "image")

    def __init__(
        self,
        source: str = "lmms-lab/ai2d",
        split: str = "test",
        config: str | None = None,
        max_new_tokens: int = 16,
    ) -> None:
        super().__init__(source, split, config, max_new_tokens)

    def example(self, row: Mapping[str, Any]) -> Example:
        options = dict(zip(string.ascii_uppercase, row["options"], strict=False))
        question = f"{row['question']}\n{options_text(options)}{LETTER_ANSWER_PROMPT}"
        image, scene, name = self.picture(row["image"]), picture_key(row["image"]), str(row["row"])
        return Example(image, question, string.ascii_uppercase[int(row["answer"])], "all", scene, name)

    def score(self, prediction: str, example: Example) -> float:
        given = truncate_answer(prediction)
        letter = _LETTER_IN_FRONT.match(given)
        return exact_match(letter.group(1) if letter else given, example.answer)
