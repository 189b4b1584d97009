"""Run the vision tower once for teacher and student, and once an image however many questions it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from learnpruner.backbones.base import adapter
from learnpruner.engine.driver import is_driven


@contextmanager
def shared_vision(model: nn.Module, image_index: Tensor | None = None) -> Iterator[None]:
    """Inside the block the tower runs once for each distinct `pixel_values` tensor; later calls get the same output.

    image_index: (rows,) which image each row of the prompt shows. Then `pixel_values` holds the distinct images only,
    and the tower's output is expanded to one image a row.
    Where a plan watches the tower's attention, the tower runs again, on one image a row.
    """
    family = adapter(model)
    tower, memo = family.tower, _Memo(image_index)
    original, outer = tower.forward, tower.__dict__.get("forward")

    def forward(pixel_values: Tensor, **kwargs: Any) -> Any:
        if any(is_driven(layer.self_attn) for layer in family.tower_layers):
            return original(memo.expand(pixel_values), **kwargs)
        return memo.get(original, pixel_values, kwargs)

    tower.forward = forward
    try:
        yield
    finally:
        del tower.forward
        if outer is not None:  # blocks nest: one without image_index around one with it shares the tower's run
            tower.forward = outer


class _Memo:
    """Outputs by input tensor; the input is held too, so that its identity stays its own."""

    def __init__(self, image_index: Tensor | None) -> None:
        self.image_index = image_index
        self.seen: list[tuple[Tensor, str, Any]] = []

    def expand(self, x: Any) -> Any:
        if isinstance(x, Tensor) and self.image_index is not None:
            return x[self.image_index.to(x.device)]
        return tuple(self.expand(part) for part in x) if isinstance(x, tuple) else x

    def get(self, run: Any, pixel_values: Tensor, kwargs: dict[str, Any]) -> Any:
        call = str(sorted(kwargs.items()))
        for known, how, output in self.seen:
            if known is pixel_values and how == call:
                return type(output)(**output)
        output = run(pixel_values, **kwargs)
        output = type(output)(**{name: self.expand(value) for name, value in output.items()})
        self.seen.append((pixel_values, call, output))
        return type(output)(**output)
