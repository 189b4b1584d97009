"""DART: the pivots, and what is kept when they choose in the order that the reference happened to use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.pruners.dart import dart_mask, pivot_tokens


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "keep_sequence_indices" not in tensors:
        return False
    start, n = settings["image_start"], settings["image_len"]
    keys = tensors["key_states"].transpose(1, 2).flatten(2)  # (B, L, G x d)
    batch, length = keys.shape[:2]
    every, end = torch.ones(batch, length, dtype=torch.bool), start + n
    of_image, of_text = settings.get("pivot_image_token", 4), settings.get("pivot_text_token", 4)
    visual = pivot_tokens(keys[:, start:end], every[:, :n], torch.full((batch,), of_image))
    text = pivot_tokens(keys[:, end:], every[:, end:], torch.full((batch,), of_text))
    for found, kind, first in ((visual, "image", start), (text, "text", end)):
        given = tensors.get(f"pivot_{kind}")
        assert given is None or torch.equal(found.sort(1).values + first, given.view(batch, -1).sort(1).values), (
            f"other {kind} pivots"
        )
    order = tensors.get("pivot_processing_order")
    order = torch.cat([visual, text + n], 1) if order is None else order.view(batch, -1) - start
    expected = tensors["keep_sequence_indices"].view(batch, -1).tolist()
    keep = torch.full((batch,), settings.get("actually_kept", len(expected[0])))
    states = tensors["last_layer_state_normed"][:, start:]
    kept = dart_mask(states, every[:, :n], order, visual, keep)
    found = [(row.nonzero()[:, 0] + start).tolist() for row in kept]
    assert found == expected, f"kept {found}, expected {expected}"
    return True
