"""TRIM-KV: retention attention to 1e-5; eviction by head and over the whole cache exactly."""

from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close as close

from learnpruner.kv_eviction.policies.trimkv import TrimKV, log_decay_matrix, retention_attention
from learnpruner.kv_eviction.policy import CacheSlots


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "weights" in tensors or "output" in tensors:
        attention(tensors, settings)
    elif "per_head_keep" in tensors or "global_keep_mask" in tensors:
        eviction(tensors, settings)
    else:
        return False
    return True


def attention(tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """The authors multiply logits by beta ** (i - j), as the note in the file's metadata says."""
    query, key, value, log_beta = (tensors[part] for part in ("query", "key", "value", "log_beta"))
    scaling = settings.get("scaling", query.shape[-1] ** -0.5)
    output, weights = retention_attention(query, key, value, log_decay_matrix(log_beta), scaling)
    for kind, found in (("weights", weights), ("output", output)):
        if kind in tensors:
            close(found, tensors[kind], atol=1e-5, rtol=0, msg=lambda m, kind=kind: f"attention {kind}: {m}")


def eviction(tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """log_beta (layers, heads, S), one row."""
    log_beta, budget = tensors["log_beta"][:, None], settings["memory_size"]
    position = torch.arange(log_beta.shape[-1]).expand(log_beta.shape[1:])
    age, valid = settings.get("query_index", position.shape[-1] + 1) - position, torch.ones_like(position).bool()
    layers = [CacheSlots(position, age, valid, layer) for layer in log_beta]
    if "per_head_keep" in tensors:
        kept = torch.stack(TrimKV(1, pool="head")(layers, budget))[:, 0]
        slots = kept.nonzero()[:, -1].view(*kept.shape[:2], -1)
        assert torch.equal(slots, tensors["per_head_keep"].sort(-1).values), "slots kept in each head differ"
    if "global_keep_mask" in tensors:
        kept = torch.stack(TrimKV(1, pool="cache")(layers, budget))[:, 0]
        assert torch.equal(kept, tensors["global_keep_mask"]), "slots kept in the whole cache differ"
