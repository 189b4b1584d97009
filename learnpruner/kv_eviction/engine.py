"""The engine of eviction: hooks on an unmodified model's attention layers; all undone on detach."""

from __future__ import annotations

import functools
from typing import Any, Protocol

import torch
from torch import nn

from learnpruner.backbones.family import Adapter
from learnpruner.kv_eviction.cache import EvictingLayer, evicting
from learnpruner.kv_eviction.policy import Policy
from learnpruner.utils.errors import UserError

ATTRIBUTE = "_eviction_engine"  # of a model that carries a policy
KERNELS = ("sdpa", "eager")  # attention that takes a mask a head


class Evicts(Protocol):
    """What the engine reads of an `Eviction`, also while it is on: budget and interval may change."""

    policy: Policy
    budget: int
    every: int

    def prepare(self, adapter: Adapter) -> Any: ...


def heads_of(lm: Any) -> tuple[int, int]:
    """Key-value heads of a language model, and query heads for each of them."""
    heads = getattr(lm.config, "num_key_value_heads", None) or lm.config.num_attention_heads
    return heads, lm.config.num_attention_heads // heads


def attach(eviction: Evicts, adapter: Adapter) -> Engine:
    """Evict from every cache that the model fills until `detach`."""
    if adapter.model.__dict__.get(ATTRIBUTE) is not None:
        raise UserError("This model already carries an eviction policy: detach it first.")
    kernel = adapter.lm.config._attn_implementation
    if kernel not in KERNELS:
        raise UserError(
            f"attn_implementation={kernel!r} takes no mask a head, which eviction needs: choose sdpa or eager."
        )
    eviction.prepare(adapter)
    engine = adapter.model.__dict__[ATTRIBUTE] = Engine(eviction, adapter)
    return engine


def detach(adapter: Adapter) -> None:
    """Take the policy off a model. Caches that it shortened can't be continued without it."""
    engine = adapter.model.__dict__.pop(ATTRIBUTE, None)
    if engine is None:
        raise UserError("This model carries no eviction policy: nothing to detach.")
    engine.remove()


class Engine:
    """One policy on one model: each layer announces what it writes; after a forward pass, eviction where it is due.

    It holds nothing of a call: what is written, and what is due, lies in the cache.
    evictions: how often it was, so that nobody measures a policy that did nothing.
    """

    def __init__(self, eviction: Evicts, adapter: Adapter) -> None:
        self.eviction = eviction
        self.heads, self.groups = heads_of(adapter.lm)
        self.evictions = 0
        self._handles = [
            layer.self_attn.register_forward_pre_hook(functools.partial(self._on_attention, index), with_kwargs=True)
            for index, layer in enumerate(adapter.lm.layers)
        ]
        self._handles.append(adapter.lm.register_forward_hook(self._after))

    def remove(self) -> None:
        """Leave no trace on the model."""
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _on_attention(self, index: int, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        layer = evicting(kwargs.get("past_key_values"), index, self.groups)
        marks = self.eviction.policy.mark(index, hidden)
        mask = layer.admit(hidden, self.heads, kwargs.get("attention_mask"), marks)
        return args, {**kwargs, "attention_mask": mask}

    @torch.no_grad()
    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        layers = [layer for layer in cache.layers if isinstance(layer, EvictingLayer)] if cache is not None else []
        if not layers or max(layer.fresh for layer in layers) < self.eviction.every:
            return
        for layer in layers:
            layer.fresh = 0
        budget = self.eviction.budget
        if max(layer.held for layer in layers) <= budget:
            return
        kept = self.eviction.policy([layer.slots() for layer in layers], budget)
        ends = torch.stack([torch.stack(keep.sum(-1).aminmax()).to(kept[0].device) for keep in kept])
        for layer, keep, (least, most) in zip(layers, kept, ends.tolist(), strict=True):
            if most < layer.held or least < most:
                layer.evict(keep, most, least)
        self.evictions += 1
