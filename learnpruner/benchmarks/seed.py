"""SEED-Bench, the image part: multiple choice with four options. https://arxiv.org/abs/2307.16125"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learnpruner.benchmarks.base import Example
from learnpruner.benchmarks.public import LETTER_ANSWER_PROMPT, PublicBenchmark
from learnpruner.benchmarks.scoring import options_text, truncate_answer
from learnpruner.utils.errors import UserError


class SeedBench(PublicBenchmark):
    """Accuracy on the rows whose `data_type` is image, as lmms-eval scores them: by the answer's first character in any case.

    LLaVA's script wants the whole answer to be the letter.
    """

    name, title = "seed", "SEED"
    metric = "accuracy on images"
    columns = (
        "question_id",
        "question",
        "choice_a",
        "choice_b",
        "choice_c",
        "choice_d",
        "answer",
        "data_type",
        "image",
    )

    def __init__(
        self,
        source: str = "lmms-lab/SEED-Bench",
        split: str = "test",
        config: str | None = None,
        max_new_tokens: int = 16,
    ) -> None:
        super().__init__(source, split, config, max_new_tokens)
        kinds = self.rows.select_columns(["data_type"])["data_type"]
        self.rows = self.rows.select([row for row, kind in enumerate(kinds) if kind == "image"])
        if not len(self.rows):
            raise UserError(f"{source} has no row whose data_type is 'image'.")

    def example(self, row: Mapping[str, Any]) -> Example:
        options = {letter: row[f"choice_{letter.lower()}"] for letter in "ABCD"}
        question = f"{row['question']}\n{options_text(options)}{LETTER_ANSWER_PROMPT}"
        name = str(row["question_id"])
        scene = str(row.get("data_id", name))
        kind = str(row.get("question_type_id", "all"))
        return Example(self.picture(row["image"]), question, row["answer"], kind, scene, name)

    def score(self, prediction: str, example: Example) -> float:
        return float(truncate_answer(prediction)[:1].lower() == example.answer.lower())
