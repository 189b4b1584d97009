"""MMBench, English: multiple choice in which every rotation of the options must be answered rightly. https://arxiv.org/abs/2307.06281"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from learnpruner.benchmarks.base import AnsweredExample, Example
from learnpruner.benchmarks.public import LETTER_ANSWER_PROMPT, PublicBenchmark, _Array
from learnpruner.benchmarks.rows import group_rows
from learnpruner.benchmarks.scoring import option_letter, options_text
from learnpruner.utils.errors import UserError

_log = logging.getLogger(__name__)

_ROTATION_SHIFT = 1_000_000  # a rotated question's index is the first one's plus a multiple


class Mmbench(PublicBenchmark):
    """Circular accuracy on dev: a question counts where all rotations of its options are right.

    Rotations are rows of the dataset, their indices equal modulo a million. Answers are read by rule (`option_letter`);
    an answer without a readable option is wrong, where MMBench's server asks a language model.
    """

    name, title = "mmbench", "MMB"
    metric = "circular accuracy on dev, answers read by rule"
    columns = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "L2-category", "image")
    ending: ClassVar[str] = LETTER_ANSWER_PROMPT

    def __init__(
        self,
        source: str = "lmms-lab/MMBench",
        split: str = "dev",
        config: str | None = "en",
        max_new_tokens: int = 1024,
    ) -> None:
        super().__init__(source, split, config, max_new_tokens)
        groups = [index % _ROTATION_SHIFT for index in self.rows.select_columns(["index"])["index"]]
        self.sizes = Counter(groups)
        self.rows = group_rows(self.rows, groups)
        if max(self.sizes.values()) == 1:
            _log.warning("%s holds no rotated questions: the score is plain accuracy, not circular", source)

    def example(self, row: Mapping[str, Any]) -> Example:
        group, options = row["index"] % _ROTATION_SHIFT, {key: row[key] for key in "ABCD" if has_text(row[key])}
        if row["answer"] not in options:
            raise UserError(f"Question {row['index']} has the answer {row['answer']!r}; only dev has known answers.")
        hint = f"{row['hint']}\n" if has_text(row["hint"]) else ""
        question = f"{hint}{row['question']}\n{options_text(options)}{self.ending}"
        facts = {"options": options, "rotations": self.sizes[group], "L2-category": row["L2-category"]}
        image = self.picture(row["image"])
        return Example(image, question, row["answer"], row["category"], str(group), str(row["index"]), facts)

    def score(self, prediction: str, example: Example) -> float:
        return float(option_letter(prediction, example.facts["options"]) == example.answer)

    def sums(self, answered: Sequence[AnsweredExample]) -> _Array:
        """(G, 2): whether all rotations are right, and 1; zeros for a question whose rotations a limit cut off."""
        return np.array(
            [
                [all(one.score for one in group), 1.0] if circular_scores(group) else [0, 0]
                for group in group_by_question(answered)
            ]
        )

    def metrics(self, answered: Sequence[AnsweredExample]) -> dict[str, float]:
        found = {"score": self.total(answered)}
        first = [one.score for one in answered if int(one.id) < _ROTATION_SHIFT]
        found["accuracy without rotations"] = 100 * float(np.mean(first)) if first else float("nan")
        for name in sorted({one.facts["L2-category"] for one in answered}):
            found[name] = self.total([one for one in answered if one.facts["L2-category"] == name])
        return found


def has_text(value: Any) -> bool:
    """Whether a cell holds a text: empty ones are None, nan or the word "nan"."""
    return value is not None and value == value and str(value).strip() not in ("", "nan")


def group_by_question(answered: Sequence[AnsweredExample]) -> list[list[AnsweredExample]]:
    """Collect the rotations of each question."""
    groups: dict[str, list[AnsweredExample]] = {}
    for one in answered:
        groups.setdefault(str(one.scene), []).append(one)
    return list(groups.values())


def circular_scores(group: Sequence[AnsweredExample]) -> bool:
    """Tell whether all rotations of a question were answered rightly."""
    return len(group) == group[0].facts["rotations"]
