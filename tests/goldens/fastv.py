"""FastV: the sequence that is left after the cut, from the attention's last row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.core.selection import gather_tokens
from learnpruner.core.signals import LAST_ATTENTION, View
from learnpruner.pruners.fastv import FastV


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "keep_sequence_indices" not in tensors:
        return False
    start, n = settings["image_start"], settings["image_len"]
    row = next(value for key, value in tensors.items() if "attention" in key)  # (B, H, L, L), or its last row alone
    row = row[:, :, -1] if row.dim() == 4 else row
    (batch, _, length), expected = row.shape, tensors["keep_sequence_indices"].view(len(row), -1)
    view = View(torch.zeros(batch, n, 1), signals={LAST_ATTENTION: row[..., start : start + n]})
    keep = settings.get("keep", expected.shape[1] - length + n)
    alive = torch.ones(batch, length, dtype=torch.bool)
    alive[:, start : start + n] = FastV()(view, torch.full((batch,), keep)).mask(n)
    found = alive.nonzero()[:, 1].view(batch, -1)
    assert torch.equal(found, expected), f"kept {found.tolist()}, expected {expected.tolist()}"
    if "position_ids" in tensors:
        assert torch.equal(found, tensors["position_ids"].view(batch, -1)), "positions are not the original ones"
    if "hidden_states" in tensors and "hidden_states_kept" in tensors:
        torch.testing.assert_close(
            gather_tokens(tensors["hidden_states"], found), tensors["hidden_states_kept"], rtol=0, atol=0
        )
    return True
