"""Samples -> the tensors of a training step: one question a row, images shared between rows.

R rows, I distinct images, L sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from learnpruner.data.plain import protect_special_tokens
from learnpruner.data.sample import Sample

IGNORE_INDEX = -100
_SHAREABLE = {"input_ids", "pixel_values"}  # what a processor makes of images that are one square each
_PATCH_GRIDS = "image_grid_thw"  # (frames, rows, columns) of each image, where pixels come as one row a patch


@dataclass
class Batch:
    """The tensors of a training step: one question a row, images shared between rows.

    Args:
        input_ids, attention_mask: (R, L).
        labels: (R, L) token ids of the answer and the end of sequence, -100 elsewhere.
        prompt_mask: (R, L) text of the prompt after the image, never the answer: the query rows of text attention.
        pixel_values: (I, 3, H, W) distinct images.
        image_index: (R,) the image of each row.
        first_rows: (I,) a row of each image.
        slots: (R,) the number of a row among those of its image. Families whose processor cuts images up, or resizes
            each in its own way, have pixels of their own shape, and each row has its own image.
        of_images: what else the model gets of each image, such as its size: (I, ...).
        of_rows: the same of each row: (R, ...).
        answers: (A, 2) row and position that predict the A answer tokens.
        tail: positions from the end that hold all of them.
        prefix: positions from the start, image included, that are equal in all rows of an image (0 where there are
            none): the unpruned model reads them once an image.
        most: questions of the image that has most.
        ids: what the data calls the samples.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    prompt_mask: Tensor
    pixel_values: Tensor
    image_index: Tensor
    first_rows: Tensor
    slots: Tensor
    answers: Tensor
    tail: int
    prefix: int
    most: int
    ids: list[str] = field(default_factory=list, kw_only=True)
    of_images: dict[str, Tensor] = field(default_factory=dict, kw_only=True)
    of_rows: dict[str, Tensor] = field(default_factory=dict, kw_only=True)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments for the model, each image once: see `shared_vision`."""
        given = {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "pixel_values": self.pixel_values}
        return {**given, **self.of_images, **self.of_rows}

    def rows(self) -> dict[str, Tensor]:
        """List keyword arguments for the model, with the image repeated on every row that asks about it."""
        return {**self.inputs, **self._images(self.image_index)}

    def _images(self, images: Tensor) -> dict[str, Tensor]:
        """What the model gets of some images."""
        found = {name: value[images] for name, value in self.of_images.items()}
        if _PATCH_GRIDS in self.of_images:
            parts = self.pixel_values.split(self.of_images[_PATCH_GRIDS].prod(-1).tolist())
            return {"pixel_values": torch.cat([parts[i] for i in images.tolist()]), **found}
        return {"pixel_values": self.pixel_values[images], **found}

    def pick(self, rows: Tensor) -> Batch:
        """Pick some rows, in this order, repeatedly if asked; images that no row shows are left out."""
        images, image_index = self.image_index[rows].unique(return_inverse=True)
        whole = len(images) == len(self.first_rows)  # then the same tensor: what was computed from it is found again
        shown = {"pixel_values": self.pixel_values, **self.of_images} if whole else self._images(images)
        order = torch.arange(len(rows), device=rows.device)
        new, old = (self.answers[:, 0] == rows[:, None]).nonzero().unbind(1)
        slots = (image_index[:, None] == image_index).tril(-1).sum(1)
        return Batch(
            input_ids=self.input_ids[rows],
            attention_mask=self.attention_mask[rows],
            labels=self.labels[rows],
            prompt_mask=self.prompt_mask[rows],
            pixel_values=shown.pop("pixel_values"),
            image_index=image_index,
            first_rows=order.new_full((len(images),), len(rows)).scatter_reduce(0, image_index, order, "amin"),
            slots=slots,
            answers=torch.stack([new, self.answers[old, 1]], 1),
            tail=self.tail,
            prefix=self.prefix,
            most=int(slots.max()) + 1,
            ids=self.ids,
            of_images=shown,
            of_rows={name: value[rows] for name, value in self.of_rows.items()},
        )


class Collate:
    """Renders questions and answers with the processor's chat template; labels are what the answer added to the prompt.

    Args:
        processor: with ``image_token``, a chat template and a fast tokenizer.
        padding_side: where short rows are filled up.
    """

    def __init__(self, processor: Any, padding_side: Literal["left", "right"] = "right") -> None:
        self.processor, self.padding_side = protect_special_tokens(processor), padding_side

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        processor = self.processor
        images = self._images(samples)
        if not images.keys() <= _SHAREABLE:  # images that rows cannot share: each row gets its own
            samples = [Sample(sample.image, [turn], sample.id) for sample in samples for turn in sample.turns]
            images = self._images(samples)
        placeholders = (images.pop("input_ids") == processor.image_token_id).sum(1).tolist()
        kinds = images.pop("mm_token_type_ids", None) is not None  # models that tell text from images by it
        pixels = images.pop("pixel_values", None)
        pixels = images.pop("pixel_values_images") if pixels is None else pixels
        index = [i for i, sample in enumerate(samples) for _ in sample.turns]
        said = [map(processor.tokenizer.protect, turn) for sample in samples for turn in sample.turns]
        turns = [render_turn(processor, question, answer) for question, answer in said]
        encoded = processor.tokenizer([full for _, full in turns], return_offsets_mapping=True)
        rows = [
            self._row(ids, offsets, len(prompt), placeholders[i])
            for i, (prompt, _), ids, offsets in zip(
                index, turns, encoded["input_ids"], encoded["offset_mapping"], strict=True
            )
        ]
        ids = self._padded([row[0] for row in rows], processor.tokenizer.pad_token_id)
        answer = self._padded([row[1] for row in rows], 0).bool()
        attended = self._padded([[1] * len(row[0]) for row in rows], 0)
        image = ids == processor.image_token_id
        after_image = image.flip(1).cumsum(1).flip(1) == 0
        image_index = torch.tensor(index)
        first_rows = torch.tensor([index.index(i) for i in range(len(samples))])
        slots = torch.arange(len(index)) - first_rows[image_index]
        answers = answer.nonzero() - torch.tensor([0, 1])
        return Batch(
            input_ids=ids,
            attention_mask=attended,
            labels=ids.masked_fill(~answer, IGNORE_INDEX),
            prompt_mask=attended.bool() & after_image & ~answer,
            pixel_values=pixels,
            image_index=image_index,
            first_rows=first_rows,
            slots=slots,
            answers=answers,
            tail=ids.shape[1] - int(answers[:, 1].min()),
            prefix=0 if images else shared_prefix(ids, attended.bool(), image, first_rows[image_index]),
            most=int(slots.max()) + 1,
            ids=[sample.id for sample in samples],
            of_images=images,
            of_rows={"mm_token_type_ids": image.long()} if kinds else {},
        )

    def texts(self, sample: Sample) -> list[str]:
        """Render the text of each row that a sample comes to."""
        said = [map(self.processor.tokenizer.protect, turn) for turn in sample.turns]
        return [render_turn(self.processor, question, answer)[1] for question, answer in said]

    def _images(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """What the processor makes of the pictures, and their placeholders as `input_ids`."""
        pictures, text = [[sample.image] for sample in samples], [self.processor.image_token] * len(samples)
        found = dict(self.processor(images=pictures, text=text, padding=True, return_tensors="pt"))
        found.pop("attention_mask")
        return found

    def _row(
        self, ids: list[int], offsets: list[tuple[int, int]], prompt: int, placeholders: int
    ) -> tuple[list[int], list[int]]:
        """Token ids with one placeholder for each visual token, and which of them (0, 1) lie behind the prompt's text."""
        at = ids.index(self.processor.image_token_id)
        answer = [int(start >= prompt) for start, _ in offsets]
        spread = [ids[at]] * placeholders
        return ids[:at] + spread + ids[at + 1 :], answer[:at] + [0] * placeholders + answer[at + 1 :]

    def _padded(self, rows: list[list[int]], value: int) -> Tensor:
        """(R, L) with short rows filled up."""
        return pad_sequence([torch.tensor(row) for row in rows], True, value, self.padding_side)


def render_turn(processor: Any, question: str, answer: str) -> tuple[str, str]:
    r"""Render the prompt as inference sees it, and the same text with the answer and the end-of-sequence token behind it.

    Of the template's own answer counts what it puts in front: llava-hf's for Mistral closes it with `<\s>`, which is no
    token, and LLaVA-OneVision's opens it in another way than its prompt for an answer, whose last blank is then enough.
    """
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    assistant = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    prompt: str = processor.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
    full: str = processor.apply_chat_template([user, assistant], tokenize=False)
    gap, found, _ = full[len(prompt) :].partition(answer) if full.startswith(prompt) else ("", "", "")
    if not found:
        gap = "" if prompt[-1:].isspace() else " "
    return prompt, f"{prompt}{gap}{answer}{processor.tokenizer.eos_token}"


def shared_prefix(ids: Tensor, attended: Tensor, image: Tensor, first: Tensor) -> int:
    """Count the positions up to the last image token, if they hold the same tokens in all rows of an image, else 0.

    Args:
        ids: (R, L) token ids.
        attended: (R, L) bool, real positions.
        image: (R, L) bool, image tokens.
        first: (R,) the first row that shows the row's image.
    """
    length = int(image.nonzero()[:, 1].max()) + 1
    same = (ids[:, :length] == ids[first, :length]).all() and attended[:, :length].all()
    ends = image[:, length - 1].all()
    return length if same and ends else 0
