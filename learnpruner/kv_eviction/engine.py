"""The engine of eviction: hooks on an unmodified model's attention layers; all undone on detach."""

from __future__ import annotations

import functools
from typing import Any, Protocol

import torch
from torch import nn

from learnpruner.backbones.family import ModelFamily
from learnpruner.kv_eviction.cache import EvictingLayer, evicting_layer
from learnpruner.kv_eviction.policy import EvictionPolicy
from learnpruner.utils.errors import UserError

_ATTRIBUTE = "_eviction_engine"  # of a model that carries a policy
_KERNELS = ("sdpa", "eager")  # attention that takes a mask a head


class EvictionSettings(Protocol):
    """What the engine reads of an `Eviction`, also while it is on: budget and interval may change."""

    policy: EvictionPolicy
    budget: int
    evict_interval: int

    def prepare(self, family: ModelFamily) -> Any: ...


def kv_heads(lm: Any) -> tuple[int, int]:
    """Count the key-value heads of a language model, and the query heads for each of them."""
    heads = getattr(lm.config, "num_key_value_heads", None) or lm.config.num_attention_heads
    return heads, lm.config.num_attention_heads // heads


def attach_eviction(eviction: EvictionSettings, family: ModelFamily) -> EvictionEngine:
    """Evict from every cache that the model fills until `detach`."""
    if family.model.__dict__.get(_ATTRIBUTE) is not None:
        raise UserError("This model already carries an eviction policy: detach it first.")
    kernel = family.language_model.config._attn_implementation
    if kernel not in _KERNELS:
        raise UserError(
            f"attn_implementation={kernel!r} takes no mask a head, which eviction needs: choose sdpa or eager."
        )
    eviction.prepare(family)
    engine = family.model.__dict__[_ATTRIBUTE] = EvictionEngine(eviction, family)
    return engine


def detach_eviction(family: ModelFamily) -> None:
    """Take the policy off a model. Caches that it shortened can't be continued without it."""
    engine = family.model.__dict__.pop(_ATTRIBUTE, None)
    if engine is None:
        raise UserError("This model carries no eviction policy: nothing to detach.")
    engine.remove()


class EvictionEngine:
    """One policy on one model: each layer announces what it writes; after a forward pass, eviction where it is due.

    It holds nothing of a call: what is written, and what is due, lies in the cache.

    Attributes:
        evictions: how often it was, so that nobody measures a policy that did nothing.
    """

    def __init__(self, eviction: EvictionSettings, family: ModelFamily) -> None:
        self.eviction = eviction
        self.heads, self.groups = kv_heads(family.language_model)
        self.evictions = 0
        self._handles = [
            layer.self_attn.register_forward_pre_hook(functools.partial(self._on_attention, index), with_kwargs=True)
            for index, layer in enumerate(family.language_model.layers)
        ]
        self._handles.append(family.language_model.register_forward_hook(self._after))

    def remove(self) -> None:
        """Leave no trace on the model."""
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _on_attention(self, index: int, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        layer = evicting_layer(kwargs.get("past_key_values"), index, self.groups)
        marks = self.eviction.policy.mark(index, hidden)
        mask = layer.admit(hidden, self.heads, kwargs.get("attention_mask"), marks)
        return args, {**kwargs, "attention_mask": mask}

    @torch.no_grad()
    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        layers = [layer for layer in cache.layers if isinstance(layer, EvictingLayer)] if cache is not None else []
        if not layers or max(layer.fresh for layer in layers) < self.eviction.evict_interval:
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
