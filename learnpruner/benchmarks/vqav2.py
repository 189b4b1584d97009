"""VQAv2: ten human answers a question; the validation split, as test-dev has no public answers. https://arxiv.org/abs/1612.00837"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learnpruner.benchmarks.base import Example
from learnpruner.benchmarks.public import SHORT_ANSWER_PROMPT, PublicBenchmark
from learnpruner.benchmarks.scoring import human_answers, truncate_answer, vqa_accuracy


class Vqav2(PublicBenchmark):
    """VQA accuracy, leave-one-out over ten human answers. Papers report test-dev, which only EvalAI's server scores."""

    name, title = "vqav2", "VQAv2"
    metric = "VQA accuracy on val (papers: test-dev)"
    columns = ("question_id", "question", "answers", "image")

    def __init__(
        self,
        source: str = "lmms-lab/VQAv2",
        split: str = "validation",
        config: str | None = None,
        max_new_tokens: int = 16,
    ) -> None:
        super().__init__(source, split, config, max_new_tokens)

    def prompt(self, row: Mapping[str, Any]) -> str:
        return row["question"] + SHORT_ANSWER_PROMPT

    def example(self, row: Mapping[str, Any]) -> Example:
        answers = human_answers(row["answers"])
        common = max(answers, key=answers.count)
        name = str(row["question_id"])
        scene = str(row.get("image_id", name))
        image = self.picture(row["image"])
        return Example(image, self.prompt(row), common, "all", scene, name, {"answers": answers})

    def score(self, prediction: str, example: Example) -> float:
        return vqa_accuracy(truncate_answer(prediction), example.facts["answers"])
