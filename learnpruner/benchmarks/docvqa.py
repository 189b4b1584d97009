"""DocVQA: questions about scanned pages; the validation split, as test is scored by a server. https://arxiv.org/abs/2007.00398"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from learnpruner.benchmarks.base import Example
from learnpruner.benchmarks.public import SHORT_ANSWER_PROMPT, PublicBenchmark
from learnpruner.benchmarks.rows import picture_key
from learnpruner.benchmarks.scoring import truncate_answer


def edit_distance(first: str, second: str) -> int:
    """Letters to insert, drop or replace to make one text the other (Levenshtein)."""
    above = list(range(len(second) + 1))
    for row, letter in enumerate(first, 1):
        line = [row]
        for column, other in enumerate(second, 1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (letter != other)))
        above = line
    return above[-1]


def normalised_similarity(prediction: str, answers: Sequence[str], threshold: float = 0.5) -> float:
    """Compute the ANLS of one answer: 1 - edit distance / length of the longer text, to the nearest right answer.

    Case and the number of blanks do not count in the distance; lengths are the texts' own, as in lmms-eval.

    Args:
        prediction: the answer.
        answers: the right ones.
        threshold: a similarity below it counts as 0; higher is stricter.
    """
    given = " ".join(prediction.lower().split())
    distances = [
        edit_distance(" ".join(answer.lower().split()), given) / max(len(answer), len(prediction), 1)
        for answer in answers
    ]
    best = 1 - min(distances)
    return best if best >= threshold else 0.0


class Docvqa(PublicBenchmark):
    """ANLS, the average normalised Levenshtein similarity, times 100."""

    name, title = "docvqa", "DocVQA"
    metric = "ANLS on val (papers: val or test)"
    columns = ("questionId", "question", "answers", "image")

    def __init__(
        self,
        source: str = "lmms-lab/DocVQA",
        split: str = "validation",
        config: str | None = "DocVQA",
        max_new_tokens: int = 32,
    ) -> None:
        super().__init__(source, split, config, max_new_tokens)

    def example(self, row: Mapping[str, Any]) -> Example:
        image, scene, name = self.picture(row["image"]), picture_key(row["image"]), str(row["questionId"])
        answers = row["answers"]
        question = row["question"] + SHORT_ANSWER_PROMPT
        return Example(image, question, answers[0], "all", scene, name, {"answers": answers})

    def score(self, prediction: str, example: Example) -> float:
        return normalised_similarity(truncate_answer(prediction), example.facts["answers"])
