"""TextVQA: questions about text in pictures; the validation split. https://arxiv.org/abs/1904.08920"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from learnpruner.benchmarks.public import SHORT_ANSWER_PROMPT
from learnpruner.benchmarks.vqav2 import Vqav2
from learnpruner.data.public_tables import read_rows

if TYPE_CHECKING:
    from datasets import Dataset


class Textvqa(Vqav2):
    """VQA accuracy; the question is capitalised, as LLaVA's question file and lmms-eval have it.

    Args:
        ocr: put the reference OCR tokens into the prompt, as that file and the 58.2 of the papers do; without them
            LLaVA-1.5-7B scores about 46.
    """

    name, title = "textvqa", "TextVQA"

    def __init__(
        self,
        source: str = "lmms-lab/textvqa",
        split: str = "validation",
        config: str | None = None,
        ocr: bool = True,
        max_new_tokens: int = 128,
    ) -> None:
        self.ocr, self.metric = ocr, f"VQA accuracy on val, {'with' if ocr else 'without'} OCR tokens in the prompt"
        super().__init__(source, split, config, max_new_tokens)

    def read(self) -> Dataset:
        columns = (*self.columns, "ocr_tokens") if self.ocr else self.columns
        return read_rows(self.source, columns, self.split, self.config)

    def prompt(self, row: Mapping[str, Any]) -> str:
        tokens = f"\nReference OCR token: {', '.join(row['ocr_tokens'])}" if self.ocr else ""
        return row["question"].capitalize() + tokens + SHORT_ANSWER_PROMPT
