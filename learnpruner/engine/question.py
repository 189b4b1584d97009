"""What stages before the language model may read of the question: its embeddings, beside each image."""

from __future__ import annotations

import torch
from torch import Tensor

from learnpruner.engine.adapter import Adapter
from learnpruner.engine.packing import pack
from learnpruner.engine.prompt import Prompt
from learnpruner.pruner import Signal
from learnpruner.selection import take

NAMES = frozenset({"text_embeds", "text_mask"})


@torch.no_grad()
def signals(needs: frozenset[Signal], adapter: Adapter, prompt: Prompt) -> dict[Signal, Tensor]:
    """The signals among `needs` that are read from the prompt's question, one row an image of the call."""
    if not any(signal.name in NAMES for signal in needs):
        return {}
    images = prompt.images
    assert images is not None
    device = images.tokens.device
    owner = owners(adapter, prompt).to(device)
    query = prompt.query.to(device)[owner]  # (I, L)
    index, mask = pack(query, int(query.sum(1).max()))
    ids = prompt.inputs["input_ids"].to(device)[owner]
    found = {"text_embeds": adapter.core.get_input_embeddings()(take(ids, index)), "text_mask": mask}
    return {signal: found[signal.name] for signal in needs if signal.name in NAMES}


def owners(adapter: Adapter, prompt: Prompt) -> Tensor:
    """The prompt row that shows each image: (I,)."""
    assert prompt.images is not None
    images, n = prompt.images.shape
    numbers = torch.arange(images * n, dtype=torch.float64, device=prompt.placeholders.device).view(images, n)
    slots = adapter.place(numbers, prompt.inputs, -1.0).long().to(prompt.placeholders.device)
    rows, real = prompt.placeholders.nonzero()[:, 0], slots >= 0
    return rows.new_zeros(images).scatter(0, slots[real] // n, rows[real])
