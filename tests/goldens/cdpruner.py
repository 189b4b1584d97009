"""CDPruner: kept tokens, with relevance scaled over the batch or in each image, and questions of several segments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.pruners.cdpruner import greedy_map, kernel, relevance
from learnpruner.selection import earliest


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "keep_indices" not in tensors:
        return False
    tokens, keep = tensors["features"], settings["keep"]
    text = tensors["text_embeds_3seg" if "3seg" in name else "text_embeds"]
    direction = torch.nn.functional.normalize(text, dim=-1).mean(0, keepdim=True)
    relevant = relevance(tensors["image_embeds"], direction, batchwise="per_image" not in name)
    order = greedy_map(kernel(tokens, relevant), keep)
    found = earliest(order, torch.full((len(tokens),), keep), tokens.shape[1])
    assert torch.equal(found.index, tensors["keep_indices"].sort(1).values), "other tokens were kept"
    return True
