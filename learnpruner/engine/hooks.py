"""What is put on a model, and taken off again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from learnpruner.engine.attention_hook import install_hook, remove_hook
from learnpruner.engine.binding import MethodBinding, forget_compiled


class HookSet:
    """Hooks and bindings on the modules of one model; `remove` leaves no trace of them."""

    def __init__(self) -> None:
        self._bindings: list[MethodBinding] = []
        self._handles: list[Any] = []
        self._hooked: list[nn.Module] = []

    def bind(self, module: nn.Module, name: str, around: Callable[..., Any]) -> None:
        """Run `around(original, ...)` in place of a method of a module."""
        self._bindings.append(MethodBinding(module, name, around))

    def before(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call a hook with a module's arguments before it runs."""
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def behind(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call a hook with a module's output behind its run."""
        self._handles.append(module.register_forward_hook(hook))

    def hook_attention(self, attention: nn.Module) -> None:
        """Let an attention module take an `AttentionHook` with a call."""
        install_hook(attention)
        self._hooked.append(attention)

    def remove(self) -> None:
        """Take all off, and forget what torch.compile made with them."""
        for handle in self._handles:
            handle.remove()
        for attention in self._hooked:
            remove_hook(attention)
        for binding in reversed(self._bindings):
            binding.undo()
        if self._bindings:
            forget_compiled()
        self._bindings, self._handles, self._hooked = [], [], []
