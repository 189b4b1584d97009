"""How the engine enters an attention layer: a driver, handed to the layer as a keyword, decides what it computes.

Layers that are driven get a copy of their config that names this attention function; `release` gives the original
back. The driver itself travels with each call, so that recomputation under gradient checkpointing sees the same one;
where keywords do not reach the attention function, as in SigLIP, it waits in the call's frame.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from learnpruner.engine.call_state import take_handed_hook
from learnpruner.engine.driver import AttentionHook
from learnpruner.engine.masks import biased_attention

HOOK_KEYWORD = "learnpruner"  # of the attention function, and of the keyword that carries the driver


def hooked_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Compute attention as the layer would, watched or biased where a driver says so.

    Args:
        module: the attention module, driven by `install_hook`.
        query: (B, H, S, d).
        key: (B, G, S, d), of G key-value heads.
        value: (B, G, S, d).
        attention_mask: as the layer's own attention function takes it.
        kwargs: the driver, `scaling`, `dropout`, and what else the layer hands its function.

    Returns:
        (B, S, H, d), and the probabilities where the layer's own function gives them.
    """
    driver: AttentionHook = kwargs.pop(HOOK_KEYWORD, None) or take_handed_hook(module) or AttentionHook()
    if driver.watch is not None:
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            driver.watch(query, key, kwargs["scaling"])
    if driver.attend is not None:
        return driver.attend(query, key, value, kwargs["scaling"]), None
    if driver.bias is not None:
        return biased_attention(module, query, key, value, driver.bias, kwargs["scaling"], kwargs.get("dropout") or 0.0)
    out: tuple[Tensor, Tensor | None] = _original(module)(module, query, key, value, attention_mask, **kwargs)
    return out


AttentionInterface.register(HOOK_KEYWORD, hooked_attention)


def install_hook(attention: nn.Module) -> None:
    """Let this attention module be driven."""
    config: Any = attention.config
    driven = copy.copy(config)
    driven._attn_implementation_internal = HOOK_KEYWORD
    driven.undriven = config
    attention.config = driven


def remove_hook(attention: Any) -> None:
    """Give an attention module back the config that `install_hook` found."""
    attention.config = attention.config.undriven


class HookedRecompute:
    """A layer's checkpointing function whose recomputation finds the attention driven, even when the plan is off by then."""

    def __init__(self, original: Callable[..., Any], attention: nn.Module) -> None:
        self.original, self.attention = original, attention

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.original(functools.partial(self._again, function), *args)

    def _again(self, function: Callable[..., Any], *args: Any) -> Any:
        if is_hooked(self.attention):
            return function(*args)
        install_hook(self.attention)
        try:
            return function(*args)
        finally:
            remove_hook(self.attention)


def is_hooked(attention: Any) -> bool:
    """Tell whether `install_hook` was applied."""
    return hasattr(getattr(attention, "config", None), "undriven")


def _original(module: Any) -> Callable[..., Any]:
    """The attention function that the module's own config names now."""
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    found: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
        module.config.undriven._attn_implementation, eager
    )
    return found
