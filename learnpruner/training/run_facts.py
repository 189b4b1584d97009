"""What a training runs on, whatever its folders are called: digests of backbone, data and plan that a checkpoint keeps."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from learnpruner import adapters
from learnpruner.plan import Plan
from learnpruner.plan.export import describe_pruner

SAMPLED = 64  # values of each weight that tell one backbone from another


def run_facts(model: nn.Module, source: Any, learner: nn.Module) -> dict[str, str]:
    """Digest what a training runs on, by `backbone`, `plan` and `data`.

    Args:
        model: the frozen backbone's.
        source: of the data; one that reads while it trains has no digest.
        learner: what is trained; gates of KV-cache eviction are all in their settings, and have none.
    """
    found = {"backbone": backbone_digest(model)}
    if isinstance(learner, Plan):
        found["plan"] = plan_digest(learner)
    if (digest := getattr(source, "digest", None)) is not None:
        found["data"] = digest
    return found


@torch.no_grad()
def backbone_digest(model: nn.Module) -> str:
    """Digest names, shapes, types and some values of all weights: the same from the hub and from a folder."""
    digest = blake2b(digest_size=16)
    for name, weight in model.state_dict().items():
        if isinstance(weight, Tensor):
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            if weight.device.type != "meta":  # offloaded until it runs
                some = weight.flatten()[:: max(1, weight.numel() // SAMPLED)][:SAMPLED]
                digest.update(some.double().cpu().numpy().tobytes())
    return digest.hexdigest()


def plan_digest(plan: Plan) -> str:
    """Digest everything about a plan but its weights."""
    stages = [[describe_pruner(stage.pruner), stage.at, stage.token_share] for stage in plan.stages]
    adapted = adapters.adapter_spec(plan.adaptation) if plan.adaptation else None
    told = [stages, plan.prune_ratio, plan.positions, plan.image_aspect, adapted]
    return blake2b(json.dumps(told, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
