"""VizWiz-VQA: pictures taken by blind people, some questions unanswerable; the val split. https://arxiv.org/abs/1802.08218"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learnpruner.benchmarks.public import SHORT_ANSWER_PROMPT
from learnpruner.benchmarks.vqav2 import Vqav2

_UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."


class Vizwiz(Vqav2):
    """VQA accuracy; the question is capitalised, and the prompt allows "Unanswerable"."""

    name, title = "vizwiz", "VizWiz"
    metric = "VQA accuracy on val"

    def __init__(
        self,
        source: str = "lmms-lab/VizWiz-VQA",
        split: str = "val",
        config: str | None = None,
        max_new_tokens: int = 128,
    ) -> None:
        super().__init__(source, split, config, max_new_tokens)

    def prompt(self, row: Mapping[str, Any]) -> str:
        return row["question"].capitalize() + _UNANSWERABLE + SHORT_ANSWER_PROMPT
