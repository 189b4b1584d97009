"""Run the vision tower once for teacher and student, for many plans, and once an image however many questions it has."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from learnpruner.backbones.registry import family_of
from learnpruner.engine.attention_hook import is_hooked


@contextmanager
def shared_vision(model: nn.Module, image_index: Tensor | None = None) -> Iterator[None]:
    """Run the tower once for each distinct `pixel_values` tensor in the block; later calls get the same output.

    The first plan that watches layers of the tower makes it run once more, which keeps what each layer was given; for this
    plan and all later ones the watched layers alone run again on that, on one image a row.

    Args:
        model: whose tower it is.
        image_index: (rows,) which image each row of the prompt shows. Then `pixel_values` holds the distinct images
            only, and the tower's output is expanded to one image a row. In families whose images are cut up, or differ
            in size, every row brings its own image, and the index is not needed.
    """
    family = family_of(model)
    with ExitStack() as stack:
        for tower in family.towers:
            tap = family.projector if any(module is family.projector for module in tower.modules()) else None
            memo = _Memo(family.layers_of(tower), image_index if family.features_are_placeholders else None, tap)
            stack.enter_context(_remembering(tower, memo))
        yield


@contextmanager
def _remembering(tower: nn.Module, memo: _Memo) -> Iterator[None]:
    original, outer = tower.forward, tower.__dict__.get("forward")

    def forward(pixel_values: Tensor, **kwargs: Any) -> Any:
        return memo.get(original, pixel_values, kwargs)

    tower.forward = forward
    try:
        yield
    finally:
        del tower.forward
        if outer is not None:  # blocks nest: one without image_index around one with it shares the tower's run
            tower.forward = outer


@dataclass(eq=False)
class _Run:
    """One run of the tower; the input is held too, so that its identity stays its own.

    Args:
        given: arguments by layer.
        weights: of the tap, where it is a part of the tower: a plan may exchange them.
    """

    pixel_values: Tensor
    call: str
    weights: Sequence[Tensor]
    output: Any = None
    given: dict[nn.Module, tuple[Any, Any]] = field(default_factory=dict)

    def matches(self, pixel_values: Tensor, call: str, weights: Sequence[Tensor]) -> bool:
        alike = all(a is b for a, b in zip(self.weights, weights, strict=True))
        return self.call == call and alike and same_pictures(self.pixel_values, pixel_values)


class _Memo:
    """What a tower made of each distinct tensor of pictures.

    Args:
        tap: the module that reads the features, where it is a part of the tower: plans look at what it is given.
    """

    def __init__(self, layers: Iterable[nn.Module], image_index: Tensor | None, tap: nn.Module | None = None) -> None:
        self.layers, self.image_index, self.projector = list(layers), image_index, tap
        self.runs: list[_Run] = []

    def get(self, tower: Any, pixel_values: Tensor, kwargs: dict[str, Any]) -> Any:
        """The tower's output; watched layers run, so that whoever watches sees them."""
        watched = [layer for layer in self.layers if is_hooked(getattr(layer, "self_attn", None))]
        call = str(sorted(kwargs.items()))
        weights = [] if self.projector is None else list(self.projector.parameters())
        run = next((run for run in self.runs if run.matches(pixel_values, call, weights)), None)
        if run is None or not run.given.keys() >= set(watched):
            if run is not None:
                self.runs.remove(run)
            run = _Run(pixel_values, call, weights)
            self._fill(run, functools.partial(tower, pixel_values, **kwargs), bool(watched))
            self.runs.append(run)
        elif self.projector is not None:
            self.projector(run.output.last_hidden_state)
        for layer in watched:
            (hidden, *others), options = run.given[layer]
            layer(self.expand(hidden), *others, **options)
        return type(run.output)(**run.output)

    def _fill(self, run: _Run, tower: Any, keep: bool) -> None:
        """Let the tower run; keep: also what each of its layers is given, before any other hook has changed it."""

        def note(layer: nn.Module, args: Any, kwargs: Any) -> None:
            run.given[layer] = (args, kwargs)

        chosen = self.layers if keep else ()
        handles = [layer.register_forward_pre_hook(note, prepend=True, with_kwargs=True) for layer in chosen]
        try:
            output = tower()
        finally:
            for handle in handles:
                handle.remove()
        run.output = type(output)(**{name: self.expand(value) for name, value in output.items()})

    def expand(self, x: Any) -> Any:
        if isinstance(x, Tensor) and self.image_index is not None:
            return x[self.image_index.to(x.device)]
        return tuple(self.expand(part) for part in x) if isinstance(x, tuple) else x


def same_pictures(x: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors hold the same pictures; models that cut pictures up stack them anew at every call."""
    return x is other or (x.shape == other.shape and bool((x == other).all()))
