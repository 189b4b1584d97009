"""How the engine enters an attention layer: a hook, handed to the layer as a keyword, decides what it computes.

1. Attached: `install_hook` gives the layer a copy of its config that names `hooked_attention`, since that is where Hugging
   Face reads which attention function to call. The config is shared by all layers, so it is never written into; the
   layer keeps it, and so does a deep copy of the layer.
2. In each call: the layer's `AttentionHook` comes with the call as a keyword, so that recomputation under gradient
   checkpointing sees the same one; where keywords do not reach the attention function, as in SigLIP, it waits in the
   call's frame. A call without one computes what the layer's own config names at that moment.
3. Detached: `remove_hook` gives the layer its config back. A recomputation that comes later hooks it for its duration
   (`HookedRecompute`).
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

HOOK_KEYWORD = "learnpruner"  # of the attention function, and of the keyword that carries the hook
_OWN_CONFIG = "_config_without_hook"  # attribute of a hooked layer


def hooked_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Compute attention as the layer would, watched or biased where a hook says so.

    Args:
        module: the attention module, hooked by `install_hook`.
        query: (B, H, S, d).
        key: (B, G, S, d), of G key-value heads.
        value: (B, G, S, d).
        attention_mask: as the layer's own attention function takes it.
        kwargs: the hook, `scaling`, `dropout`, and what else the layer hands its function.

    Returns:
        (B, S, H, d), and the probabilities where the layer's own function gives them.
    """
    hook: AttentionHook = kwargs.pop(HOOK_KEYWORD, None) or take_handed_hook(module) or AttentionHook()
    if hook.watch is not None:
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            hook.watch(query, key, kwargs["scaling"])
    if hook.attend is not None:
        return hook.attend(query, key, value, kwargs["scaling"]), None
    if hook.bias is not None:
        return biased_attention(module, query, key, value, hook.bias, kwargs["scaling"], kwargs.get("dropout") or 0.0)
    out: tuple[Tensor, Tensor | None] = _original(module)(module, query, key, value, attention_mask, **kwargs)
    return out


AttentionInterface.register(HOOK_KEYWORD, hooked_attention)


def install_hook(attention: nn.Module) -> None:
    """Have this attention module call `hooked_attention`."""
    config: Any = attention.config
    hooked = copy.copy(config)
    hooked._attn_implementation_internal = HOOK_KEYWORD
    attention.__dict__[_OWN_CONFIG], attention.config = config, hooked


def remove_hook(attention: Any) -> None:
    """Give an attention module back the config that `install_hook` found."""
    attention.config = attention.__dict__.pop(_OWN_CONFIG)


class HookedRecompute:
    """A layer's checkpointing function whose recomputation finds the attention hooked, even when the plan is off by then."""

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
    return _OWN_CONFIG in getattr(attention, "__dict__", ())


def _original(module: Any) -> Callable[..., Any]:
    """The attention function that the module's own config names now."""
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    found: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
        module.__dict__[_OWN_CONFIG]._attn_implementation, eager
    )
    return found
