"""Autograd functions of one output, with the types that torch leaves out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import Function


def apply_function(function: type[Function], *inputs: Any) -> Tensor:
    """Call an autograd function whose `forward` returns one tensor.

    Args:
        function: the class, with `forward` and `backward`.
        inputs: what `forward` takes after its context.

    Returns:
        What `forward` returns, with its gradient.
    """
    apply: Callable[..., Tensor] = function.apply
    return apply(*inputs)
