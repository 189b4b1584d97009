"""ScienceQA-IMG: school science with a picture; multiple choice. https://arxiv.org/abs/2209.09513"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Any

from learnpruner.benchmarks.base import Example
from learnpruner.benchmarks.public import LETTER_ANSWER_PROMPT, PublicBenchmark
from learnpruner.benchmarks.scoring import options_text

_SENTENCE = re.compile(r"The answer is ([A-Z]).")


def answered_letter(prediction: str) -> str | None:
    """The rule of LLaVA's eval_science_qa.py: the bare letter, "X. " in front, or exactly one "The answer is X."; else None.

    "X." without a blank behind it, which LLaVA's script counts as wrong, is read too, as lmms-eval does.
    """
    given = prediction.strip()
    if len(given) == 1 and given in string.ascii_uppercase:
        return given
    if re.match(r"[A-Z]\.", given):
        return given[0]
    found = _SENTENCE.findall(given)
    return found[0] if len(found) == 1 else None


class Scienceqa(PublicBenchmark):
    """Accuracy over the questions with a picture."""

    name, title = "scienceqa", "SQA-I"
    metric = "accuracy on the IMG subset"
    columns = ("question", "choices", "answer", "hint", "image")

    def __init__(
        self,
        source: str = "lmms-lab/ScienceQA",
        split: str = "test",
        config: str | None = "ScienceQA-IMG",
        max_new_tokens: int = 16,
    ) -> None:
        super().__init__(source, split, config, max_new_tokens)

    def example(self, row: Mapping[str, Any]) -> Example:
        options = dict(zip(string.ascii_uppercase, row["choices"], strict=False))
        context = f"Context: {row['hint']}\n" if row["hint"] else ""
        question = f"{context}{row['question']}\n{options_text(options)}{LETTER_ANSWER_PROMPT}"
        answer, name = string.ascii_uppercase[row["answer"]], str(row["row"])
        return Example(self.picture(row["image"]), question, answer, "all", name, name)

    def score(self, prediction: str, example: Example) -> float:
        return float(answered_letter(prediction) == example.answer)
