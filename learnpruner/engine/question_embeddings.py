"""What stages before the language model may read of the question: its embeddings, and a layer's view of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.backbones.family import ModelFamily
from learnpruner.core.selection import gather_tokens
from learnpruner.core.signals import Signal
from learnpruner.engine.packing import pack_rows
from learnpruner.engine.prompt import Prompt
from learnpruner.engine.qk_projection import project_heads
from learnpruner.engine.signal_clock import computes_signals

PROJECTED_SIGNALS = frozenset(
    {"text_queries", "token_keys"}
)  # of tokens as wide as the language model: for stages at 0
QUESTION_SIGNALS = PROJECTED_SIGNALS | {"text_embeds", "text_ids", "text_mask"}


@torch.no_grad()
@computes_signals
def question_signals(needs: frozenset[Signal], family: ModelFamily, prompt: Prompt) -> dict[Signal, Tensor]:
    """Compute the signals among `needs` that the prompt's question gives, one row an image of the call."""
    wanted = [signal for signal in needs if signal.name in QUESTION_SIGNALS]
    if not wanted:
        return {}
    ids, mask = _question(prompt)
    embeds = family.inner_model.get_input_embeddings()(ids)
    found: dict[Signal, Tensor] = {}
    for signal in wanted:
        if signal.name in PROJECTED_SIGNALS:
            assert prompt.images is not None
            of_text = signal.name == "text_queries"
            x = embeds if of_text else prompt.images.tokens.to(embeds.dtype)
            found[signal] = _projected(family.language_model.layers[int(signal.layer or 0)], "q" if of_text else "k", x)
        else:
            found[signal] = {"text_embeds": embeds, "text_ids": ids, "text_mask": mask}[signal.name]
    return found


def question_lengths(needs: frozenset[Signal], prompt: Prompt) -> list[int] | None:
    """Count the question's rows beside each image; None where no signal among `needs` runs over them."""
    if all(signal.text_axis is None for signal in needs):
        return None
    counts = prompt.query.sum(1)
    return counts[prompt_of_images(prompt).to(counts.device)].tolist()


def _question(prompt: Prompt) -> tuple[Tensor, Tensor]:
    """The question's token ids beside each image, and which of them are real, (I, T) both."""
    assert prompt.images is not None
    device = prompt.images.tokens.device
    owner = prompt_of_images(prompt).to(device)
    query = prompt.query.to(device)[owner]  # (I, L)
    index, mask = pack_rows(query, int(query.sum(1).max()))
    ids = prompt.inputs["input_ids"].to(device)[owner]
    return gather_tokens(ids, index), mask


def _projected(layer: Any, part: str, x: Tensor) -> Tensor:
    """Queries or keys of x (I, L, D) in a layer, without RoPE, one for each query head: (I, H, L, d)."""
    heads = project_heads(layer.self_attn, part, layer.input_layernorm(x))
    groups: int = getattr(layer.self_attn, "num_key_value_groups", 1)
    return heads.repeat_interleave(groups, 1) if part == "k" else heads


def prompt_of_images(prompt: Prompt) -> Tensor:
    """Find the prompt row that shows each image: (I,)."""
    assert prompt.images is not None
    images, n = prompt.images.shape
    slots = prompt.images.layout.slots.to(prompt.placeholders.device)
    rows, real = prompt.placeholders.nonzero()[:, 0], slots >= 0
    return rows.new_zeros(images).scatter(0, slots[real] // n, rows[real])
