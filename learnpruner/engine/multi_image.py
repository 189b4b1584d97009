"""The images of one prompt as one row, for pruners that choose across the frames of a video or the views of a scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from learnpruner.core.pruner import Pruner
from learnpruner.core.selection import Selection, top_k_selection
from learnpruner.core.signals import Signal, View
from learnpruner.engine.packing import scatter_tokens

_unique_consecutive: Callable[..., tuple[Tensor, Tensor, Tensor]] = torch.unique_consecutive  # torch gives it no types


class PromptImages:
    """I images as R rows of at most T frames each.

    Args:
        owner: (I,) the prompt row of each image, ascending.
    """

    def __init__(self, owner: Tensor) -> None:
        _, self.row, counts = _unique_consecutive(owner, return_inverse=True, return_counts=True)
        start = counts.cumsum(0) - counts
        self.place = torch.arange(len(owner), device=owner.device) - start[self.row]
        self.count = int(counts.max())  # T
        order = torch.arange(self.count, device=owner.device)
        self.present = order < counts[:, None]  # (R, T)
        self.image = torch.where(self.present, start[:, None] + order, start[:, None])  # (R, T)

    def join(self, x: Tensor, axis: int = 1) -> Tensor:
        """Put images one after the other along the axis of their tokens: (I, ..., N, ...) -> (R, ..., T x N, ...)."""
        x = x.movedim(axis, 1)
        return x[self.image].flatten(1, 2).movedim(1, axis)

    def split(self, x: Tensor) -> Tensor:
        """Take rows apart into images again: (R, T x N, ...) -> (I, N, ...)."""
        return torch.unflatten(x, 1, (self.count, -1))[self.row, self.place]

    def signal(self, signal: Signal, values: Tensor) -> Tensor:
        """Restate a signal of I images for R rows; one that is not over tokens is that of the row's first image."""
        return values[self.image[:, 0]] if signal.axis is None else self.join(values, signal.axis)

    def view(self, view: View) -> View:
        """Restate a view of I images as one of R rows."""
        images, n = view.tokens.shape[:2]
        valid = torch.ones(images, n, dtype=torch.bool, device=view.tokens.device) if view.valid is None else view.valid
        valid = self.join(valid) & self.present.repeat_interleave(n, 1)
        signals = {signal: self.signal(signal, values) for signal, values in view.signals.items()}
        every = view.valid is None and bool(self.present.all())
        return replace(
            view,
            tokens=self.join(view.tokens),
            valid=None if every else valid,
            signals=signals,
            frames=self.count * view.frames,
        )

    def budgets(self, keep: Sequence[int]) -> Tensor:
        """Add up what each row may keep: (R,) tokens, what its images may together."""
        return torch.zeros(len(self.image), dtype=torch.long).index_add(0, self.row.cpu(), torch.tensor(keep))


def call_pruner(pruner: Pruner, view: View, keep: Tensor) -> Selection:
    """Call a pruner as a module, with its hooks; keep (B,) on the CPU."""
    chosen: Selection = pruner(view, keep)
    return chosen


def choose_jointly(pruner: Pruner, view: View, keep: Sequence[int], owner: Tensor) -> Selection:
    """Make one decision for the images of each row, and state it as one an image.

    Weight rows may reach across images, which no selection of one image can say: it then carries the values.

    Args:
        pruner: that chooses across images.
        view: of I images.
        keep: (I,) tokens of each image; a row may keep their sum, wherever in its images.
        owner: (I,) the prompt row of each image, ascending.
    """
    frames = PromptImages(owner.to(view.tokens.device))
    if frames.count == 1:
        return call_pruner(pruner, view, torch.tensor(keep))
    together = frames.view(view)
    chosen = call_pruner(pruner, together, frames.budgets(keep))
    kept = frames.split(chosen.mask(together.tokens.shape[1]))
    alone = top_k_selection(kept.float(), kept.sum(1).cpu())
    values = None
    if chosen.changes:
        spread = scatter_tokens(together.tokens, chosen.index, chosen.apply(together.tokens), chosen.valid)
        values = alone.apply(frames.split(spread))
    gate = None if chosen.gate is None else frames.split(chosen.gate)
    return replace(alone, values=values, gate=gate, losses=chosen.losses, unscored=chosen.unscored)
