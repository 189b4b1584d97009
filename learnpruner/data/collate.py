"""Samples -> the tensors of a training step: one question a row, images shared between rows.

R rows, I distinct images, L sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from learnpruner.data.sample import Sample

IGNORED = -100


@dataclass
class Batch:
    """input_ids, attention_mask: (R, L).
    labels: (R, L) token ids of the answer and the end of sequence, -100 elsewhere.
    prompt_mask: (R, L) text of the prompt after the image, never the answer: the query rows of text attention.
    pixel_values: (I, 3, H, W) distinct images; image_index: (R,) the image of each row.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    prompt_mask: Tensor
    pixel_values: Tensor
    image_index: Tensor

    def rows(self) -> dict[str, Tensor]:
        """Keyword arguments for the model, with the image repeated on every row that asks about it."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "pixel_values": self.pixel_values[self.image_index],
        }


class Collate:
    """Renders questions and answers with the processor's chat template; labels are what the answer added to the prompt.

    processor: with ``image_token``, a chat template and a fast tokenizer. padding_side: where short rows are filled up.
    """

    def __init__(self, processor: Any, padding_side: Literal["left", "right"] = "right") -> None:
        self.processor, self.padding_side = processor, padding_side

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        image_token: str = self.processor.image_token
        images = self.processor(
            images=[sample.image for sample in samples], text=[image_token] * len(samples), return_tensors=None
        )
        placeholders = [image_token * ids.count(self.processor.image_token_id) for ids in images["input_ids"]]
        index = [i for i, sample in enumerate(samples) for _ in sample.turns]
        turns = [render(self.processor, *turn) for sample in samples for turn in sample.turns]
        turns = [
            (prompt.replace(image_token, placeholders[i]), full.replace(image_token, placeholders[i]))
            for i, (prompt, full) in zip(index, turns, strict=True)
        ]
        tokens = self.processor.tokenizer(
            [full for _, full in turns],
            padding=True,
            padding_side=self.padding_side,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        ids, attended = tokens["input_ids"], tokens["attention_mask"].bool()
        prompt_length = torch.tensor([[len(prompt)] for prompt, _ in turns])
        answer = attended & (tokens["offset_mapping"][..., 0] >= prompt_length)
        image = ids == self.processor.image_token_id
        after_image = image.flip(1).cumsum(1).flip(1) == 0
        return Batch(
            input_ids=ids,
            attention_mask=tokens["attention_mask"],
            labels=ids.masked_fill(~answer, IGNORED),
            prompt_mask=attended & after_image & ~answer,
            pixel_values=torch.as_tensor(_stack(images["pixel_values"])),
            image_index=torch.tensor(index),
        )


def render(processor: Any, question: str, answer: str) -> tuple[str, str]:
    """The prompt as inference sees it, and the same text with the answer and the end-of-sequence token behind it."""
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    assistant = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    prompt: str = processor.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
    full: str = processor.apply_chat_template([user, assistant], tokenize=False).rstrip()
    if not full.startswith(prompt):  # a template that closes turns in its own way: keep the prompt of inference
        full = f"{prompt} {answer}"
    end: str = processor.tokenizer.eos_token
    return prompt, full if full.endswith(end) else full + end


def _stack(pixels: Any) -> Tensor:
    return torch.stack([torch.as_tensor(image) for image in pixels])
