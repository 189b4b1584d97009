"""Whether a sample fits into the positions that the model was made for; beyond them it would be trained on noise."""

from __future__ import annotations

from typing import Any

from learnpruner.data.collate import _SHAREABLE, Collate
from learnpruner.data.sample import Sample

_SPECIAL = 8  # tokens that stand for no text at most: begin and end of sequence among them


class FitsContext:
    """Says why a sample is left out, None for one that fits.

    Args:
        collate: what makes rows of samples.
        positions: of the language model; a row, answer included, holds no more tokens.
    """

    def __init__(self, collate: Collate, positions: int) -> None:
        self.collate, self.positions = collate, positions
        self.constant: int | None = None  # visual tokens of any image, where the processor makes one square of it

    def __call__(self, sample: Sample) -> str | None:
        texts, visual = self.collate.texts(sample), self._visual(sample)
        if max(len(text.encode()) for text in texts) + _SPECIAL + visual <= self.positions:  # a token is a byte or more
            return None
        rows = self.collate.processor.tokenizer(texts)["input_ids"]
        tokens = max(map(len, rows)) - 1 + visual
        return None if tokens <= self.positions else f"its {tokens} tokens do not fit into {self.positions} positions"

    def _visual(self, sample: Sample) -> int:
        if self.constant is not None:
            return self.constant
        processor: Any = self.collate.processor
        if hasattr(processor, "_get_num_multimodal_tokens"):
            found: int = processor._get_num_multimodal_tokens([sample.image.size[::-1]]).num_image_tokens[0]
            return found
        made = self.collate._images([sample])
        count = int((made["input_ids"] == processor.image_token_id).sum())
        if made.keys() <= _SHAREABLE:
            self.constant = count
        return count
