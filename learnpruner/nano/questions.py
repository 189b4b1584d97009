"""Questions and answers as packed, isolated turns: every turn sees the image and itself only, and its positions restart after the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learnpruner.data.scenes import GRID, QUESTION_KINDS, SceneQuestion
from learnpruner.nano.model import WORD_ID

PROMPT_PREFIX = ("<s>", "USER:")
AFTER_IMAGE = (
    len(PROMPT_PREFIX) + GRID * GRID
)  # position of a turn's first token, however many patches the sequence holds
_IGNORED = -100


@dataclass(frozen=True)
class PackedQuestions:
    """A batch of rows: prefix, ``visual`` patches, then the turns. Shapes (B, L) but for ``mask`` (B, 1, L, L) bool and ``visual`` (B, V)."""

    input_ids: Tensor
    labels: Tensor
    kinds: Tensor
    positions: Tensor
    mask: Tensor
    visual: Tensor


def pack_question_rows(
    questions: list[list[SceneQuestion]],
    visual: Tensor,
    valid: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> PackedQuestions:
    """``visual`` (B, V): raster number of the patch behind each image token; ``valid`` (B, V) False where a row has fewer."""
    prefix = [WORD_ID[w] for w in PROMPT_PREFIX]
    image = [WORD_ID["<image>"]] * visual.shape[1]
    rows = []
    for b, asked in enumerate(questions):
        ids, turn = prefix + image, [0] * (len(prefix) + len(image))
        places = [*range(len(prefix)), *(visual[b] + len(prefix)).tolist()]
        labels, kinds = [_IGNORED] * len(ids), [-1] * len(ids)
        for number, question in enumerate(asked, start=1):
            words = question.text.replace("?", " ?").split() + ["ASSISTANT:"]
            told = question.answer.split() + ["</s>"]
            ids += [WORD_ID[w] for w in words + told]
            labels += [_IGNORED] * len(words) + [WORD_ID[w] for w in told]
            kinds += [-1] * len(words) + [QUESTION_KINDS.index(question.kind)] * len(told)
            turn += [number] * len(words + told)
            places += range(AFTER_IMAGE, AFTER_IMAGE + len(words + told))
        rows.append((ids, labels, kinds, turn, places))
    length = max(len(row[0]) for row in rows)

    def padded(column: int, filler: int) -> Tensor:
        return torch.tensor([row[column] + [filler] * (length - len(row[column])) for row in rows])

    turns = padded(3, -1)
    sees = torch.ones(length, length, dtype=torch.bool).tril()
    sees = sees & ((turns[:, :, None] == turns[:, None]) | (turns[:, None] == 0))
    if valid is not None:
        sees[:, :, len(prefix) : len(prefix) + valid.shape[1]] &= valid[:, None]
    sees |= torch.eye(length, dtype=torch.bool)
    parts = (padded(0, WORD_ID["<pad>"]), padded(1, _IGNORED), padded(2, -1), padded(4, 0), sees[:, None], visual)
    return PackedQuestions(*(part.to(device) for part in parts))


def accuracy_by_kind(logits: Tensor, batch: PackedQuestions) -> dict[str, float]:
    """Share of answer tokens (end of sentence included) that the model finds, for every kind present. ``logits`` (B, L, V)."""
    found = logits[:, :-1].argmax(-1) == batch.labels[:, 1:]
    kinds = batch.kinds[:, 1:]
    return {
        kind: found[kinds == i].float().mean().item()
        for i, kind in enumerate(QUESTION_KINDS)
        if bool((kinds == i).any())
    }
