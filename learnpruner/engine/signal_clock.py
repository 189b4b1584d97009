"""A stopwatch around all that computes signals, for who measures what a method's choice costs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

Stopwatch = Callable[[], AbstractContextManager[None]]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_STOPWATCH: ContextVar[Stopwatch | None] = ContextVar("learnpruner_stopwatch", default=None)


@contextmanager
def watch_signals(stopwatch: Stopwatch) -> Iterator[None]:
    """Run a stopwatch whenever signals are computed inside the block, in this thread or task.

    Args:
        stopwatch: makes a context manager for each time.
    """
    token = _STOPWATCH.set(stopwatch)
    try:
        yield
    finally:
        _STOPWATCH.reset(token)


def computes_signals(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Mark a function whose time counts as that of signals."""

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        stopwatch = _STOPWATCH.get()
        if stopwatch is None:
            return function(*args, **kwargs)
        with stopwatch():
            return function(*args, **kwargs)

    return run
