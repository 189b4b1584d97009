"""GQA: compositional questions on real scenes; testdev, balanced. https://arxiv.org/abs/1902.09506"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learnpruner.benchmarks.base import Example
from learnpruner.benchmarks.public import SHORT_ANSWER_PROMPT, PublicBenchmark
from learnpruner.benchmarks.scoring import exact_match
from learnpruner.data.public_tables import read_rows
from learnpruner.utils.errors import UserError


class Gqa(PublicBenchmark):
    """Questions and images are two configurations of the dataset, joined by the image's id."""

    name, title = "gqa", "GQA"
    metric = "accuracy, exact match without case and punctuation"
    columns = ("id", "imageId", "question", "answer")

    def __init__(
        self,
        source: str = "lmms-lab/GQA",
        split: str = "testdev",
        config: str = "testdev_balanced_instructions",
        images: str = "testdev_balanced_images",
        max_new_tokens: int = 16,
    ) -> None:
        super().__init__(source, split, config, max_new_tokens)
        self.images = images
        self.pictures = read_rows(source, ("id", "image"), split, images)
        ids = self.pictures.select_columns(["id"])["id"]
        self.place = {str(name): row for row, name in enumerate(ids)}

    def example(self, row: Mapping[str, Any]) -> Example:
        scene = str(row["imageId"])
        if scene not in self.place:
            raise UserError(f"Question {row['id']} asks about image {scene}, which {self.images} does not hold.")
        image = self.picture(self.pictures[self.place[scene]]["image"])
        return Example(image, row["question"] + SHORT_ANSWER_PROMPT, row["answer"], "all", scene, str(row["id"]))

    def score(self, prediction: str, example: Example) -> float:
        return exact_match(prediction, example.answer)
