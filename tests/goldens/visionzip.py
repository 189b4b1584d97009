"""VisionZip: dominant indices, and the tokens in the order in which they are read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.core.signals import CLS_ATTENTION, CLS_STATE, VISION_KEYS, View
from learnpruner.pruners.visionzip import VisionZip, dominant_and_contextual

INDICES, STATES = "dominant_indices_with_cls", "hidden_states"


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "tokens" not in tensors and INDICES not in tensors:
        return False
    metric, row = tensors["key_metric"], cls_row(tensors)
    dominant, contextual = settings["dominant"], settings["contextual"]
    if INDICES in tensors:
        patches, _, _ = dominant_and_contextual(row, metric[:, 1:], dominant, contextual)
        found = torch.cat([torch.zeros_like(patches[:, :1]), patches + 1], 1)
        assert torch.equal(found, tensors[INDICES].view(len(metric), -1).sort(1).values), (
            "other dominant tokens were kept"
        )
    if "tokens" in tensors and STATES in tensors:
        states, keep = tensors[STATES], dominant + contextual
        view = View(
            states[:, 1:], signals={CLS_ATTENTION: row, VISION_KEYS: metric[:, None, 1:], CLS_STATE: states[:, 0]}
        )
        read = VisionZip(contextual / keep).choose(view, keep).apply(view.tokens)
        torch.testing.assert_close(read, tensors["tokens"], rtol=0, atol=2e-5)
    return True


def cls_row(tensors: dict[str, Tensor]) -> Tensor:
    """What [CLS] attends to among the patches, (B, H, N): from whole maps, or where a case stores that row alone."""
    attention = next(value for key, value in tensors.items() if "attention" in key)
    row = attention[:, :, 0] if attention.dim() == 4 else attention
    return row[..., 1:] if row.shape[-1] == tensors["key_metric"].shape[1] else row
