"""CDPruner: kept tokens, with relevance scaled over the batch or in each image, and questions of several segments."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from goldens import expected
from learnpruner.core.selection import from_order
from learnpruner.pruners.cdpruner import clip_relevance, dpp_kernel, greedy_map_inference


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    tokens = tensors["features"]
    (rows, n, _), kept = tokens.shape, expected(tensors, len(tokens))
    if kept is None:
        return False
    keep, segments = settings.get("keep", kept.shape[1]), re.search(r"\d+seg", name)
    own = f"text_embeds_{segments[0]}" if segments else ""
    text = tensors[own if own in tensors else "text_embeds"]  # a row a segment
    direction = torch.nn.functional.normalize(text, dim=-1).mean(0, keepdim=True)
    relevant = clip_relevance(tensors["image_embeds"], direction, batchwise="per_image" not in name)
    order = greedy_map_inference(dpp_kernel(tokens, relevant), keep)
    found = from_order(order, torch.full((rows,), keep), n)
    assert torch.equal(found.index, kept), "other tokens were kept"
    return True
