"""OCRBench: a thousand questions about text in pictures, in five groups. https://arxiv.org/abs/2305.07895"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from learnpruner.benchmarks.base import AnsweredExample, Example
from learnpruner.benchmarks.public import PublicBenchmark, _Array, is_known, scores_by_kind
from learnpruner.benchmarks.rows import picture_key
from learnpruner.benchmarks.scoring import truncate_answer
from learnpruner.utils.errors import UserError

_RECOGNITION = "Text Recognition"
_FORMULAS = "HME100k"  # the data set of handwritten formulas, whose answers are compared with their case
OCRBENCH_GROUPS = {  # question_type -> group; the benchmark asks 300, 200, 200, 200 and 100 questions of the groups
    "Regular Text Recognition": _RECOGNITION,
    "Irregular Text Recognition": _RECOGNITION,
    "Artistic Text Recognition": _RECOGNITION,
    "Handwriting Recognition": _RECOGNITION,
    "Digit String Recognition": _RECOGNITION,
    "Non-Semantic Text Recognition": _RECOGNITION,
    "Scene Text-centric VQA": "Scene Text-centric VQA",
    "Doc-oriented VQA": "Doc-oriented VQA",
    "Key Information Extraction": "Key Information Extraction",
    "Handwritten Mathematical Expression Recognition": "Handwritten Mathematical Expression Recognition",
}
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}  # to plain ASCII


def ocr_form(text: str, formula: bool = False) -> str:
    """Bring a text to the form that is compared: no line breaks, full-width letters as plain ones, lower case.

    Args:
        text: a right answer.
        formula: drop blanks instead, and leave the letters as they are.
    """
    if formula:
        return text.strip().replace("\n", " ").replace(" ", "")
    return text.translate(_FULL_WIDTH).lower().strip().replace("\n", " ")


class Ocrbench(PublicBenchmark):
    """Right answers in all groups together, scaled to a thousand questions; right is an answer that contains a given one."""

    name, title, decimals, best = "ocrbench", "OCRBench", 0, 1000.0
    metric = "right answers of 1,000 in five groups"
    columns = ("dataset", "question", "question_type", "answer", "image")

    def __init__(
        self,
        source: str = "echo840/OCRBench",
        split: str = "test",
        config: str | None = None,
        max_new_tokens: int = 128,
    ) -> None:
        super().__init__(source, split, config, max_new_tokens)

    def example(self, row: Mapping[str, Any]) -> Example:
        kind, answers = row["question_type"], row["answer"]
        if kind not in OCRBENCH_GROUPS:
            raise UserError(f"Row {row['row']} has the question_type {kind!r}, which is none of OCRBench's.")
        answers = [answers] if isinstance(answers, str) else answers
        facts = {"answers": answers, "formula": row["dataset"] == _FORMULAS}
        image, name = self.picture(row["image"]), str(row["row"])
        return Example(image, row["question"].strip(), answers[0], kind, picture_key(row["image"]), name, facts)

    def score(self, prediction: str, example: Example) -> float:
        formula = example.facts["formula"]
        given = ocr_form(truncate_answer(prediction), formula)
        return float(any(ocr_form(answer, formula) in given for answer in example.facts["answers"]))

    def value(self, sums: _Array) -> _Array:
        return self.best / 100 * super().value(sums)

    def metrics(self, answered: Sequence[AnsweredExample]) -> dict[str, float]:
        found = {"score": self.total(answered)} | dict.fromkeys(OCRBENCH_GROUPS.values(), float("nan"))
        for one in answered:
            group = OCRBENCH_GROUPS[one.kind]
            found[group] = (found[group] if is_known(found[group]) else 0.0) + one.score
        return found | {f"{kind}, %": share for kind, share in scores_by_kind(answered).items()}

    def caption(self, metrics: Mapping[str, float | None]) -> str:
        groups = set(OCRBENCH_GROUPS.values())
        asked = sum(is_known(metrics[group]) for group in groups)
        return self.metric + ("" if asked == len(groups) else f", {asked} of the {len(groups)} groups alone")
