"""Methods of one object run through a function of the engine until that is undone."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import nn

_Function = TypeVar("_Function", bound=Callable[..., Any])
_disable: Callable[..., Any] = torch.compiler.disable  # which torch gives no types


def compile_opaque(function: _Function) -> _Function:
    """Have torch.compile run a function as it stands, with all that it calls."""
    return cast(_Function, _disable(function))


def compile_transparent(function: _Function) -> _Function:
    """Have torch.compile run a function as it stands, but compile what it calls."""
    return cast(_Function, _disable(function, recursive=False))


class MethodBinding:
    """`module.name(...)` becomes `around(original, ...)`, on this instance alone.

    Only bound methods and partials of them are kept, so that a deep copy of the module is bound to the copy.
    """

    def __init__(self, module: nn.Module, name: str, around: Callable[..., Any]) -> None:
        self.module, self.name, self.around = module, name, around
        self.earlier, self.active = module.__dict__.get(name), True  # somebody else's binding, such as accelerate's
        original = getattr(module, name)
        self.bound = functools.partial(self._run, original)
        functools.update_wrapper(self.bound, original)  # who inspects the signature sees the original's
        module.__dict__[name] = self.bound

    @compile_transparent
    def _run(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.around(original, *args, **kwargs) if self.active else original(*args, **kwargs)

    def undo(self) -> None:
        """Give the method back as it was; where somebody has bound it anew since, theirs stays."""
        self.active = False
        if self.module.__dict__.get(self.name) is not self.bound:
            return
        if self.earlier is None:
            del self.module.__dict__[self.name]
        else:
            self.module.__dict__[self.name] = self.earlier


def forget_compiled() -> None:
    """Drop what torch.compile made: it knows a model's hooks as they were, and is made anew at the next call."""
    dynamo: Any = sys.modules.get("torch._dynamo.convert_frame")
    if dynamo is not None and dynamo.input_codes.seen:
        torch.compiler.reset()
