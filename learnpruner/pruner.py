"""The one extension point: a pruner looks at a View and returns a Selection."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from learnpruner.selection import Selection, top


@dataclass(frozen=True)
class Signal:
    """Something that a pruner wants to see beside the tokens; the engine computes only what is declared.

    name: "cls_attention": [CLS] row of a vision-tower layer, per head, (B, H, N); by default of the layer whose
        output the projector reads.
        "text_attention": mean over heads and over the prompt's text rows after the image, (B, N); by default of the
        LLM layer before the cut.
        "image_key": (B,) int64 hash of each image's pixels, to seed randomness that no batch mate can change.
        "text_embeds": the question's input embeddings, (B, T, D of the LLM), fillers first; "text_mask": (B, T) which
            of its rows are real. The question is the prompt's text after the last image of the row.
    layer: index of the layer, counted from 0, where the default does not fit.
    """

    name: str
    layer: int | None = None


@dataclass(frozen=True)
class View:
    """What a pruner may look at.

    tokens: (B, N, D) candidates in reading order. valid: (B, N), None where all are real.
    grid: (H, W) of the image's patches. signals: what the pruner declared in `needs`; read them as view[signal].
    """

    tokens: Tensor
    valid: Tensor | None = None
    grid: tuple[int, int] | None = None
    signals: Mapping[Signal, Tensor] = field(default_factory=dict)

    def __getitem__(self, signal: Signal) -> Tensor:
        if signal not in self.signals:
            raise KeyError(
                f"{signal} was not declared: add it to the pruner's `needs`, and the engine will compute it."
            )
        return self.signals[signal]


class Pruner(nn.Module):
    """Base of every method. Constructor arguments are kept as attributes of the same name: an export records them."""

    needs: frozenset[Signal] = frozenset()

    def forward(self, view: View, keep: Tensor) -> Selection:
        """keep (B,), on the CPU: tokens to keep for each row."""
        raise NotImplementedError

    def prepare(self, width: int) -> None:
        """Called when a plan meets a backbone: build, or check, what depends on the width D of the tokens."""

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, for the export."""
        names = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in list(names)[1:] if hasattr(self, name)}


class ScorePruner(Pruner):
    """Base of methods that rank tokens: higher stays, ties go to the lower index."""

    def score(self, view: View) -> Tensor:
        """(B, N)"""
        raise NotImplementedError

    def forward(self, view: View, keep: Tensor) -> Selection:
        return top(self.score(view), keep, view.valid)
