"""What a model answers: logits at the positions that predict answer tokens, one row a question or one an image.

R rows (one question each), I images, P positions that the rows of an image share, Q questions an image, S rows of the
sequence after these, A answer tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.data.collate import Batch
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.training.outputs import AnswerLogits

MASKED = ("sdpa",)  # attention that takes a boolean mask: eager would add it to the logits, as 0 and 1


def student_forward(model: Any, batch: Batch, hidden: bool = False) -> AnswerLogits:
    """Run the model on a batch, one row a question; images are given once each (see ``shared_vision``).

    Args:
        model: with the plan on it, or none.
        batch: images and their questions with answers.
        hidden: whether the last hidden states are wanted too.

    Returns:
        What it says at the A positions that predict an answer token.
    """
    logits, states = forward_logits(model, hidden, **batch.inputs, use_cache=False, logits_to_keep=batch.tail)
    rows, columns = batch.answers.unbind(1)
    return gather_answer_logits(logits, states, batch, rows, columns - (batch.input_ids.shape[1] - batch.tail))


@torch.no_grad()
def teacher_forward(model: Any, batch: Batch, hidden: bool = False) -> AnswerLogits:
    """Run the unpruned model on a batch, without gradient; arguments as `student_forward`."""
    return shared_prefix_forward(model, batch, hidden)


def shared_prefix_forward(model: Any, batch: Batch, hidden: bool = False) -> AnswerLogits:
    """Run the model with each image's prefix once, where its questions share one; arguments as `student_forward`.

    The questions follow on the prefix's KV cache side by side, each blind to the others.
    """
    if not batch.prefix or model.config._attn_implementation not in MASKED:
        with shared_vision(model, batch.image_index):
            return student_forward(model, batch, hidden)
    cache = model(
        input_ids=batch.input_ids[batch.first_rows, : batch.prefix],
        pixel_values=batch.pixel_values,
        use_cache=True,
        logits_to_keep=1,
    ).past_key_values
    ids, mask, positions = pack_questions(batch)
    logits, states = forward_logits(
        model, hidden, input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
    rows, columns = batch.answers.unbind(1)
    length = batch.input_ids.shape[1] - batch.prefix
    places = batch.slots[rows] * length + columns - batch.prefix
    return gather_answer_logits(logits, states, batch, batch.image_index[rows], places)


def pack_questions(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Pack all questions of an image into one row behind its prefix.

    Returns:
        Ids (I, Q x S), attention (I, 1, Q x S, P + Q x S) bool, and positions (I, Q x S).
    """
    rest = batch.input_ids[:, batch.prefix :]
    images, slots, length = len(batch.first_rows), batch.most, rest.shape[1]
    ids = rest.new_zeros(images, slots, length)
    ids[batch.image_index, batch.slots] = rest
    order = torch.arange(slots * length, device=rest.device)
    own = (order[:, None] // length == order // length) & (order[:, None] >= order)
    mask = torch.cat([own.new_ones(len(order), batch.prefix), own], 1)
    positions = (batch.prefix + order % length).expand(images, -1)
    return ids.flatten(1), mask.expand(images, 1, -1, -1), positions


def forward_logits(model: Any, hidden: bool, **inputs: Any) -> tuple[Tensor, Tensor | None]:
    """Run the model; return logits, and the last hidden states at the same positions where they are asked for."""
    heard: list[Tensor] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, args: heard.append(args[0])) if hidden else None
    try:
        logits = model(**inputs).logits
    finally:
        if hook is not None:
            hook.remove()
    return logits, heard[0] if hidden else None


def gather_answer_logits(
    logits: Tensor, states: Tensor | None, batch: Batch, rows: Tensor, places: Tensor
) -> AnswerLogits:
    """Pick the positions that predict answer tokens.

    Args:
        logits: (B, S, V).
        states: (B, S, D), None where they are not wanted.
        batch: whose answers are predicted.
        rows: (A,) the row of each answer token in the logits.
        places: (A,) its position there.
    """
    row, column = batch.answers.unbind(1)
    targets = batch.labels[row, column + 1]
    return AnswerLogits(logits[rows, places], targets, states[rows, places] if states is not None else None)
