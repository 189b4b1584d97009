"""What belongs to one call: it lives in the context of the thread, or task, that makes the call, and ends with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from learnpruner.engine.driver import AttentionHook

GENERATE = "generate"  # the caller of a call of `generate`


@dataclass(eq=False)
class CallFrame:
    """One call under way.

    Args:
        owner: the engine that carries it out.
        caller: the module whose `forward` runs, or "generate".
        outer: the call inside which it was made.
        call: the prompt, a `prefill.Call`, where the call brings images.
        session: the `Session` of the tokens that the language model runs on, a prompt's or those that follow one.
        inputs: the `LayerInputs` that the layers of the present segment get.
        mask: what the caller gave, one flag a token or 4-D.
        handed: drivers that wait for an attention module's next run.
    """

    owner: object
    caller: object
    outer: CallFrame | None
    call: Any = None
    session: Any = None
    inputs: Any = None
    mask: Any = None
    handed: dict[nn.Module, AttentionHook] = field(default_factory=dict)

    @property
    def prefill(self) -> Any:
        """The prompt, while the language model runs on it."""
        return self.call if self.call is not None and self.call.session is self.session else None


_FRAME: ContextVar[CallFrame | None] = ContextVar("learnpruner_frame", default=None)


@contextmanager
def open_call(owner: object, caller: object, call: Any) -> Iterator[CallFrame]:
    """Keep a call's frame from its first line to its last, however it ends.

    Args:
        owner: the engine that carries the call out.
        caller: the module that is called, or `GENERATE`.
        call: its `Prefill`, None for a call without images.
    """
    frame = CallFrame(owner, caller, _FRAME.get(), call)
    token = _FRAME.set(frame)
    try:
        yield frame
    finally:
        _FRAME.reset(token)


def current_call(owner: object) -> CallFrame | None:
    """Find the innermost call under way that an engine carries out, None outside of any."""
    frame = _FRAME.get()
    while frame is not None and frame.owner is not owner:
        frame = frame.outer
    return frame


def in_any_call() -> bool:
    """Tell whether some engine's language model runs on a session in this thread."""
    frame = _FRAME.get()
    while frame is not None and frame.session is None:
        frame = frame.outer
    return frame is not None


def take_handed_hook(attention: nn.Module) -> AttentionHook | None:
    """Take the driver that waits for this module's run, if one does."""
    frame = _FRAME.get()
    while frame is not None and attention not in frame.handed:
        frame = frame.outer
    return None if frame is None else frame.handed.pop(attention)
