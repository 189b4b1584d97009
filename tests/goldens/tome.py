"""ToMe: one round of matching. Which tokens became one, how many each holds, and their averages, in any order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learnpruner.pruners.tome import MergedGroups, bipartite_match


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "source" not in tensors:
        return False
    metric, expected = tensors["metric"], tensors["source"].float()  # (B, M, N): which tokens each output holds
    protected = int(settings.get("class_token", "clsTrue" in name))
    groups = MergedGroups.alone(len(metric), metric.shape[1], metric.device)
    groups = groups.merge(*bipartite_match(groups.mean(metric), settings["r"], protected)).in_order()
    order = expected.argmax(-1).argsort(1)[..., None]  # by the first token that each holds
    expected = expected.gather(1, order.expand_as(expected))
    assert torch.equal(groups.members, expected), "other tokens became one"
    if "sizes" in tensors:
        sizes = tensors["sizes"].view(*order.shape).gather(1, order)
        torch.testing.assert_close(groups.members.sum(-1, keepdim=True), sizes, rtol=0, atol=0)
    inputs = [value for key, value in tensors.items() if key.endswith("/tokens")]  # hidden by the output of that name
    if inputs:
        merged = tensors["tokens"].gather(1, order.expand_as(tensors["tokens"]))
        torch.testing.assert_close(groups.weights @ inputs[-1], merged, rtol=0, atol=1e-5)
    return True
