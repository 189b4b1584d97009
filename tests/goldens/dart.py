"""DART: the pivots, and what is kept when they choose in the order that the reference happened to use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.pruners.dart import dart, pivots


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "keep_sequence_indices" not in tensors:
        return False
    start, n = settings["image_start"], settings["image_len"]
    keys = tensors["key_states"].transpose(1, 2).flatten(2)  # (B, L, G x d)
    batch, length = keys.shape[:2]
    every, end = torch.ones(batch, length, dtype=torch.bool), start + n
    visual = pivots(keys[:, start:end], every[:, :n], torch.full((batch,), settings["pivot_image_token"]))
    text = pivots(keys[:, end:], every[:, end:], torch.full((batch,), settings["pivot_text_token"]))
    assert torch.equal(visual + start, tensors["pivot_image"]), "other visual pivots"
    assert torch.equal(text + end, tensors["pivot_text"]), "other text pivots"
    keep = torch.full((batch,), settings["actually_kept"])
    states = tensors["last_layer_state_normed"][:, start:]
    kept = dart(states, every[:, :n], tensors["pivot_processing_order"] - start, visual, keep)
    found = [(row.nonzero()[:, 0] + start).tolist() for row in kept]
    expected = tensors["keep_sequence_indices"].tolist()
    assert found == expected, f"kept {found}, expected {expected}"
    return True
