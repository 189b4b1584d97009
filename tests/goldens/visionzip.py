"""VisionZip: dominant indices, and the tokens in the order in which they are read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.pruner import View
from learnpruner.pruners.visionzip import CLS, KEYS, STATE, VisionZip, visionzip


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "tokens" not in tensors:
        return False
    states, metric = tensors["hidden_states"], tensors["key_metric"][:, 1:]
    attention = next(value for key, value in tensors.items() if "attention" in key)
    row = attention[:, :, 0] if attention.dim() == 4 else attention  # large cases store the [CLS] row alone
    row = row[..., 1:] if row.shape[-1] == states.shape[1] else row
    dominant, contextual = settings["dominant"], settings["contextual"]
    patches, _, _ = visionzip(row, metric, dominant, contextual)
    cls = torch.zeros_like(patches[:, :1])
    expected = tensors["dominant_indices_with_cls"].sort(1).values
    assert torch.equal(torch.cat([cls, patches + 1], 1), expected), "other dominant tokens were kept"
    keep = dominant + contextual
    view = View(states[:, 1:], signals={CLS: row, KEYS: metric[:, None], STATE: states[:, 0]})
    found = VisionZip(contextual / keep).choose(view, keep)
    torch.testing.assert_close(found.apply(view.tokens), tensors["tokens"], rtol=0, atol=2e-5)
    return True
