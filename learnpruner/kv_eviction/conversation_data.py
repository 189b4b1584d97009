"""Many questions about one image in one conversation: what fills a cache where single answers are a few words long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learnpruner.data.collate import Batch, Collate
from learnpruner.data.datamodule import PrunerData
from learnpruner.data.sample import Sample
from learnpruner.utils.errors import UserError


@dataclass
class TranscriptBatch(Batch):
    """A batch of single turns, and the same turns behind each other, one row an image (I rows, M columns).

    Args:
        whole: (I, M) token ids, padded on the right.
        present: (I, M).
        predicts: (A, 2) row and column in `whole` that predict the A answer tokens, in the order of `answers`.
        last: columns from the end of `whole` that hold all of them.
    """

    whole: Tensor
    present: Tensor
    predicts: Tensor
    last: int


class TranscriptCollate(Collate):
    """Renders each sample twice: a turn a row, and all turns in one row."""

    def __call__(self, samples: Sequence[Sample]) -> TranscriptBatch:
        batch = super().__call__(samples)
        rows = [self._whole(sample, int((ids == self.processor.image_token_id).sum())) for sample, ids in
                zip(samples, batch.input_ids[batch.first_rows], strict=True)]  # fmt: skip
        whole = self._padded([ids for ids, _ in rows], self.processor.tokenizer.pad_token_id)
        answer = self._padded([flags for _, flags in rows], 0).bool()
        if not torch.equal(whole[answer], batch.labels[batch.labels != -100]):
            raise UserError("The tokenizer splits answers otherwise inside a conversation: teach them turn by turn.")
        predicts = answer.nonzero() - torch.tensor([0, 1])
        return TranscriptBatch(
            **vars(batch),
            whole=whole,
            present=self._padded([[1] * len(ids) for ids, _ in rows], 0),
            predicts=predicts,
            last=whole.shape[1] - int(predicts[:, 1].min()),
        )

    def texts(self, sample: Sample) -> list[str]:
        """Render the whole conversation as one row; each turn alone is shorter."""
        protect = self.processor.tokenizer.protect
        return [
            render_conversation(
                self.processor, [(protect(question), protect(answer)) for question, answer in sample.turns]
            )[0]
        ]

    def _whole(self, sample: Sample, placeholders: int) -> tuple[list[int], list[int]]:
        """Token ids of a conversation, and which of them (0, 1) are answers."""
        protect = self.processor.tokenizer.protect
        text, spans = render_conversation(
            self.processor, [(protect(question), protect(answer)) for question, answer in sample.turns]
        )
        encoded = self.processor.tokenizer(text, return_offsets_mapping=True)
        ids, starts = encoded["input_ids"], [start for start, _ in encoded["offset_mapping"]]
        answer = [int(any(low <= start < high for low, high in spans)) for start in starts]
        at = ids.index(self.processor.image_token_id)
        return ids[:at] + [ids[at]] * placeholders + ids[at + 1 :], answer[:at] + [0] * placeholders + answer[at + 1 :]


def user_message(question: str, image: bool) -> dict[str, Any]:
    """Make a question a message of the chat template."""
    return {"role": "user", "content": [{"type": "image"}] * image + [{"type": "text", "text": question}]}


def assistant_message(answer: str) -> dict[str, Any]:
    """Make an answer a message of the chat template."""
    return {"role": "assistant", "content": [{"type": "text", "text": answer}]}


def render_conversation(processor: Any, turns: Sequence[tuple[str, str]]) -> tuple[str, list[tuple[int, int]]]:
    """Render a conversation, each answer closed by the end-of-sequence token, and the answers' character spans."""
    end: str = processor.tokenizer.eos_token
    text, known, spans, messages = "", "", [], []
    for number, (question, answer) in enumerate(turns):
        messages.append(user_message(question, number == 0))
        prompt: str = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        messages.append(assistant_message(answer))
        full: str = processor.apply_chat_template(messages, tokenize=False)
        if not (prompt.startswith(known) and full.startswith(prompt)):
            raise UserError("This chat template rewrites earlier turns: conversations can't be continued on one cache.")
        text += prompt[len(known) :]
        start, known = len(text), full
        text += full[len(prompt) :].rstrip().removesuffix(end) + end
        spans.append((start, len(text)))
    return text, spans


def follow_up(processor: Any, question: str) -> str:
    """Render what a later turn adds to a conversation whose last answer was closed by the end-of-sequence token."""
    text, spans = render_conversation(processor, [("?", "-"), (question, "-")])
    return text[spans[0][1] : spans[1][0]]


class TranscriptDataModule(PrunerData):
    """`PrunerData` with conversations of all of a sample's turns."""

    collate = TranscriptCollate
