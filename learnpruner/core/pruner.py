"""The one extension point: a pruner looks at a View and returns a Selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from learnpruner.core.relaxations import Relaxation
from learnpruner.core.selection import Selection, merge_rows, top_k_selection
from learnpruner.core.signals import Signal, View
from learnpruner.utils.constructor import constructor_arguments

# which tokens to keep, (B, P, N) bool -> the frozen model's loss on the answers, (B, P)
MaskedAnswerLoss = Callable[[Tensor], Tensor]


class Pruner(nn.Module):
    """Base of every method. Constructor arguments are kept as attributes of the same name: an export records them.

    Attributes:
        needs: signals that the engine computes for it.
        joint: whether it chooses across all images of a prompt, such as the frames of a video: a row of the view is then a
            prompt (see `View.frames`), and images of a prompt share their budget. Before the LLM only.
        keeps_all: in training every token stays, with other values, so that the questions of an image can share its prefix.
        together: whether it is shown all rows of a call in one view, padded to the largest, and without a grid where they
            have none in common; for what only looks, or is told what to keep.
        adaptive: whether it may keep another number of tokens than it is asked for; what it keeps is then its budget.
        uses_relaxation: whether it learns through a gate: `relaxation` is then the trainer's.
        relaxation: makes a gate of scores in training; None outside of it.
        searches: questions a training step for which a method that learns from labels searches them (see `search_loss`); 0
            where gradient comes through the model.
        reconstruction: whether only an abstract, or a part of the rules, was at hand, so that parts are ours; tables say so.
        fallback: what it does in place of what the authors do, where something is missing; tables say it.
    """

    needs: frozenset[Signal] = frozenset()
    joint: bool = False
    keeps_all: bool = False
    together: bool = False
    adaptive: bool = False
    uses_relaxation: bool = False
    relaxation: Relaxation | None = None
    searches: int = 0
    reconstruction: bool = False
    fallback: str = ""

    def forward(self, view: View, keep: Tensor) -> Selection:
        """Decide which tokens stay.

        Args:
            view: what it may look at.
            keep: (B,) int64, on the CPU: tokens to keep for each row.

        Returns:
            Which tokens stay, and what they become.
        """
        raise NotImplementedError

    def prepare(self, width: int) -> None:
        """Meet a backbone: build, or check, what depends on the width D of the tokens."""

    def anneal(self, progress: float) -> None:
        """Hear, before each training step, which share of the training is done: 0 at the first step, 1 at the last."""

    def search_loss(self, view: View, keep: Tensor, cost: MaskedAnswerLoss, words: Tensor) -> Mapping[str, Tensor]:
        """Compute the training loss of a method that `searches`.

        Args:
            view: what it may look at.
            keep: (B,) int64, on the CPU: tokens to keep for each row.
            cost: of sets to keep.
            words: (V, D) the LLM's input embeddings.

        Returns:
            The terms of its loss by name, weighted already.
        """
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """List the constructor's arguments by name, for the export."""
        return constructor_arguments(self)


class ScorePruner(Pruner):
    """Base of methods that rank tokens: higher stays, ties go to the lower index."""

    def score(self, view: View) -> Tensor:
        """Rank the tokens of a view: (B, N), higher stays."""
        raise NotImplementedError

    def forward(self, view: View, keep: Tensor) -> Selection:
        return top_k_selection(self.score(view), keep, view.valid)


class RowwisePruner(Pruner):
    """Base of methods whose steps need rows of one length: rows that differ in tokens or in budget choose apart."""

    def choose(self, view: View, keep: int) -> Selection:
        """Choose tokens of rows of one length: all N tokens of this view are real.

        Args:
            view: what it may look at.
            keep: K, tokens of each row; exactly so many are to stay.

        Returns:
            Which tokens stay, and what they become.
        """
        raise NotImplementedError

    def forward(self, view: View, keep: Tensor) -> Selection:
        rows, n = view.tokens.shape[:2]
        real = [n] * rows if view.valid is None else view.valid.sum(1).tolist()
        kinds = [(size, min(size, count)) for size, count in zip(real, keep.tolist(), strict=True)]
        if set(kinds) == {(n, kinds[0][1])}:
            return self.choose(view, kinds[0][1])
        parts = []
        for kind in dict.fromkeys(kinds):
            alike = torch.tensor([row for row, other in enumerate(kinds) if other == kind], device=view.tokens.device)
            parts.append((alike, self._apart(view, alike, *kind)))
        return merge_rows(parts, view.tokens)

    def _apart(self, view: View, rows: Tensor, size: int, keep: int) -> Selection:
        """What some rows of `size` real tokens keep, as indices among all N."""
        n = view.tokens.shape[1]
        valid = torch.ones_like(view.tokens[..., 0], dtype=torch.bool) if view.valid is None else view.valid
        places = valid[rows].nonzero()[:, 1].view(len(rows), size)
        part = replace(view.part(rows, places), valid=None, grid=view.grid if size == n else None)
        return self.choose(part, keep).among(places, n)
