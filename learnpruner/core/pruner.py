"""The one extension point: a pruner looks at a View and returns a Selection."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from learnpruner.core.selection import Selection, gather_tokens, merge_rows, top_k_selection
from learnpruner.utils.errors import UserError

MaskedAnswerLoss = Callable[
    [Tensor], Tensor
]  # which tokens to keep, (B, P, N) bool -> the frozen model's loss on the answers, (B, P)


@dataclass(frozen=True)
class Signal:
    """Something that a pruner wants to see beside the tokens; the engine computes only what is declared.

    name, of the vision tower and the prompt, for stages before the LLM:
        "cls_attention": [CLS] row of a vision-tower layer, per head, (B, H, N); by default of the layer whose output
            the projector reads.
        "cls_attention_joined": the same row as if all heads were one, over the width C: softmax(q K^T / sqrt(C)), (B, N).
        "received_attention": what each patch receives in a tower layer, mean over heads and over all queries ([CLS]
            among them), (B, N). "vision_keys": a tower layer's keys, unscaled, (B, H, N, d).
        "cls_state": [CLS] as the projector would read it, (B, D); for stages at the encoder. "vision_states": what the
            projector reads of the patches, (B, N, D), for stages behind it.
        "image_key": (B,) int64 hash of each image's pixels, to seed randomness that no batch mate can change.
        "text_embeds": the question's input embeddings, (B, T, D of the LLM), fillers first; "text_mask": (B, T) which
            of its rows are real; "text_ids": its tokens. The question is the prompt's text after the row's last image.
        "text_queries", "token_keys" (stages at 0): projections of the question, (B, H, T, d), and of the tokens,
            (B, H, N, d), in an LLM layer, by default the first, without RoPE; key heads are repeated to H.
    name, inside the LLM, by default of the layer before the cut:
        "text_attention": mean over heads and over the question's rows, (B, N). "text_rows": each of them, (B, H, T, N).
        "last_attention": the question's last row, (B, H, N). "next_attention", "next_text_attention": the last row, and
            the mean over all rows, in the layer after the cut.
        "keys", "text_keys": all heads' keys after RoPE, counted from the prompt's first token, (B, N, C) and (B, T, C).
        "states", "text_states": hidden states that enter the cut, after the LLM's final norm, (B, N, D) and (B, T, D).
        "text_embeds", "text_mask": as above. "entered_embeds", "entered_mask": the embeddings of all visual tokens
            that entered the LLM, (B, M, D), fillers first, and which rows are real, (B, M).
    layer: index of the layer, counted from 0, where the default does not fit; in the vision tower also -1 for the last,
        and "9/24" for the ninth of 24 layers, scaled to the tower's depth.
    """

    name: str
    layer: int | str | None = None

    @property
    def axis(self) -> int | None:
        """The dimension that runs over the N tokens; None where none does."""
        return AXES.get(self.name)

    @property
    def text_axis(self) -> int | None:
        """The dimension that runs over the T rows of the question; None where none does."""
        return TEXT_AXES.get(self.name)


AXES = {
    "cls_attention": 2, "cls_attention_joined": 1, "received_attention": 1, "vision_keys": 2, "vision_states": 1,
    "token_keys": 2, "text_attention": 1, "text_rows": 3, "last_attention": 2, "next_attention": 2,
    "next_text_attention": 1, "keys": 1, "states": 1,
}  # fmt: skip
TEXT_AXES = {
    "text_embeds": 1, "text_mask": 1, "text_ids": 1, "text_queries": 2, "text_rows": 2, "text_keys": 1, "text_states": 1,
}  # fmt: skip


@dataclass(frozen=True)
class View:
    """What a pruner may look at.

    Rows of a view are alike: the engine shows those that differ in tokens, in grid or in length of question apart, so that
    no row sees what its batch mates are.
    tokens: (B, N, D) candidates in reading order. valid: (B, N), None where all are real.
    grid: (H, W) of the image's patches, None where they lie on several, or an earlier stage has dropped some. signals: what the pruner declared in `needs`; read them as view[signal].
    frames: T images a row, one after the other, for pruners that choose across the images of a prompt: then N = T x H x W,
        and rows that show fewer images end in tokens that are not `valid`.
    """

    tokens: Tensor
    valid: Tensor | None = None
    grid: tuple[int, int] | None = None
    signals: Mapping[Signal, Tensor] = field(default_factory=dict)
    frames: int = 1

    def __getitem__(self, signal: Signal) -> Tensor:
        if signal not in self.signals:
            raise KeyError(
                f"{signal} was not declared: add it to the pruner's `needs`, and the engine will compute it."
            )
        return self.signals[signal]

    def plane(self, method: str) -> tuple[int, int]:
        """(H, W) of the grid that the tokens are, all of them, for a method that looks at an image's plane."""
        if self.grid is None or self.grid[0] * self.grid[1] * self.frames != self.tokens.shape[1]:
            raise UserError(
                f"{method} needs all patches of an image, on one grid: put it first, at the encoder or at 0, and show it "
                "images that are not cut into tiles and, within a prompt, are of one size."
            )
        return self.grid

    def part(self, rows: Tensor, places: Tensor) -> View:
        """Some rows (G,), of which only the candidates at places (G, M) are seen."""

        def seen(values: Tensor, axis: int | None) -> Tensor:
            mine = values[rows.to(values.device)]
            return mine if axis is None else gather_tokens(mine.transpose(1, axis), places).transpose(1, axis)

        signals = {signal: seen(values, signal.axis) for signal, values in self.signals.items()}
        valid = None if self.valid is None else seen(self.valid, 1)
        return replace(self, tokens=seen(self.tokens, 1), valid=valid, signals=signals)


class Pruner(nn.Module):
    """Base of every method. Constructor arguments are kept as attributes of the same name: an export records them.

    joint: whether it chooses across all images of a prompt, such as the frames of a video: a row of the view is then a
        prompt (see `View.frames`), and images of a prompt share their budget. Before the LLM only.
    keeps_all: in training every token stays, with other values, so that the questions of an image can share its prefix.
    together: whether it is shown all rows of a call in one view, padded to the largest, and without a grid where they have
        none in common; for what only looks, or is told what to keep.
    adaptive: whether it may keep another number of tokens than it is asked for; what it keeps is then its budget.
    searches: questions a training step for which a method that learns from labels searches them (see `search_loss`); 0 where
        gradient comes through the model.
    reconstruction: whether only an abstract, or a part of the rules, was at hand, so that parts are ours; tables say so.
    fallback: what it does in place of what the authors do, where something is missing; tables say it.
    """

    needs: frozenset[Signal] = frozenset()
    reconstruction: bool = False
    fallback: str = ""
    joint: bool = False
    together: bool = False
    keeps_all: bool = False
    adaptive: bool = False
    searches: int = 0

    def forward(self, view: View, keep: Tensor) -> Selection:
        """keep (B,), on the CPU: tokens to keep for each row."""
        raise NotImplementedError

    def prepare(self, width: int) -> None:
        """Called when a plan meets a backbone: build, or check, what depends on the width D of the tokens."""

    def anneal(self, progress: float) -> None:
        """Called before each training step, with the share of the training that is done: 0 at the first step, 1 at the last."""

    def search_loss(self, view: View, keep: Tensor, cost: MaskedAnswerLoss, words: Tensor) -> Mapping[str, Tensor]:
        """Training of a method that `searches`: the terms of its loss, weighted already.

        cost: of sets to keep. words: (V, D) the LLM's input embeddings.
        """
        raise NotImplementedError

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
        return top_k_selection(self.score(view), keep, view.valid)


class RowwisePruner(Pruner):
    """Base of methods whose steps need rows of one length: rows that differ in tokens or in budget choose apart."""

    def choose(self, view: View, keep: int) -> Selection:
        """Keep exactly `keep` tokens of each row; all tokens of this view are real."""
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
