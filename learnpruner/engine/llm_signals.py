"""What stages inside the language model read: rows of attention, keys and states of the prompt, computed as needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from learnpruner.core.selection import gather_tokens
from learnpruner.core.signals import Signal
from learnpruner.engine.attention_scores import attention_rows, gather_queries, mean_attention_rows, mean_text_attention
from learnpruner.engine.masks import ABSENT_LOGIT
from learnpruner.engine.packing import pack_rows
from learnpruner.engine.qk_projection import apply_rotary, project_heads
from learnpruner.engine.row_groups import RowKind
from learnpruner.engine.signal_clock import computes_signals

ATTENTION_SIGNALS = {  # signals that are read in a layer's attention, and what is read for them
    "text_attention": "text_attention",
    "text_rows": "text_rows",
    "last_attention": "last_attention",
    "keys": "keys",
    "text_keys": "keys",
}
TEXT_SIGNALS = frozenset({"text_mask", "text_states", "text_embeds"})
NEXT_LAYER_SIGNALS = frozenset({"next_attention", "next_text_attention"})
LLM_SIGNALS = TEXT_SIGNALS | NEXT_LAYER_SIGNALS | set(ATTENTION_SIGNALS) | {"states", "entered_embeds", "entered_mask"}


@dataclass(frozen=True)
class PromptPlace:
    """Where a prompt stands in the sequence of a segment: index (B, S) positions of the prompt, alive (B, S)."""

    index: Tensor
    alive: Tensor

    def where(self, positions: Tensor, length: int) -> Tensor:
        """Find prompt positions (B, M) in the sequence.

        Args:
            positions: that are to be found.
            length: L of the prompt.
        """
        order = torch.arange(self.index.shape[1], device=self.index.device).expand_as(self.index)
        return gather_tokens(self.index.new_zeros(self.index.shape[0], length).scatter(1, self.index, order), positions)


class LlmSignals:
    """The signals of one prompt.

    Args:
        watched: what is read in a layer's attention, by layer.
        query: (B, L) rows of the question, `queries` of them a row.
        entered: (B, L) visual tokens that enter the language model.

    Attributes:
        embeds: (B, L, D) of the prompt.
    """

    def __init__(
        self, lm: Any, watched: Mapping[int, frozenset[str]], query: Tensor, queries: Sequence[int], entered: Tensor
    ) -> None:
        self.language_model, self.watched, self.query, self.entered = lm, watched, query, entered
        self.words, self.queries = queries, max(queries)
        self.closed = False
        self.seen: dict[tuple[str, int], tuple[PromptPlace, Tensor]] = {}
        self.embeds: Tensor | None = None

    def close(self) -> None:
        """End with the prompt: nothing more is read, nor held; layers that are recomputed are not watched again."""
        self.closed, self.embeds = True, None
        self.seen.clear()

    def rows(self, place: PromptPlace, most: int) -> tuple[Tensor, Tensor]:
        """Find the last rows of the question in a sequence.

        Where nothing of the question is left, as behind a prompt that ends with an image, the last token that is alive.

        Args:
            place: the sequence.
            most: T, rows at most.

        Returns:
            Their positions (B, T), and which of them are real.
        """
        asked = gather_tokens(self.query.to(place.index.device), place.index) & place.alive
        last = place.alive & (place.alive.flip(1).cumsum(1).flip(1) == 1)
        return pack_rows(torch.where(asked.any(1, keepdim=True), asked, last), most)

    def kinds(self, needs: frozenset[Signal], left: Sequence[int]) -> list[RowKind]:
        """Tell what rows must have in common to choose together: tokens left, and the lengths of what they read beside.

        Args:
            needs: signals that the pruner reads.
            left: (B,) tokens of each row.
        """
        nothing = [None] * len(left)
        words = self.words if any(signal.text_axis is not None for signal in needs) else nothing
        read = any(signal.name.startswith("entered_") for signal in needs)
        entered = self.entered.sum(1).tolist() if read else nothing
        return [RowKind(size, (), *more) for size, *more in zip(left, words, entered, strict=True)]

    @computes_signals
    def watch(self, layer: int, place: PromptPlace, query: Tensor, key: Tensor, scaling: float) -> None:
        """Read a watched layer's query (B, H, S, d) and key (B, G, S, d), after RoPE; its attention calls this."""
        names = self.watched[layer]
        if self.closed or any((name, layer) in self.seen for name in names):
            return
        place = PromptPlace(place.index.to(key.device), place.alive.to(key.device))
        key, bias = key[:, :, : place.index.shape[1]], torch.where(place.alive, 0.0, ABSENT_LOGIT)
        rows, counted = self.rows(place, self.queries)
        last = self.rows(place, 1)[0]
        read: dict[str, Callable[[], Tensor]] = {
            "text_attention": lambda: mean_text_attention(query, key, scaling, rows, counted, bias) * place.alive,
            "text_rows": lambda: attention_rows(gather_queries(query, rows), key, scaling, rows, bias),
            "last_attention": lambda: attention_rows(gather_queries(query, last), key, scaling, last, bias)[:, :, 0],
            "keys": lambda: key.transpose(1, 2),
        }
        for name in names:
            self.seen[name, layer] = (place, read[name]())

    @computes_signals
    def signals(
        self, needs: frozenset[Signal], layer: int, place: PromptPlace, spots: Tensor, hidden: Tensor, rotary: Any
    ) -> dict[Signal, Tensor]:
        """Compute what a stage on entry to `layer` asked for.

        Args:
            needs: its signals.
            layer: the first that runs on what it keeps.
            place: the sequence that it chooses from.
            spots: (B, M) its candidates in that sequence.
            hidden: (B, S, D), what enters the layer.
            rotary: cosines and sines of these positions.
        """
        entry = StageEntrance(self, layer, place, spots, hidden, rotary)
        with torch.no_grad():
            return {signal: entry.read(signal) for signal in needs}


@dataclass(frozen=True)
class StageEntrance:
    """One stage on entry to its layer."""

    inside: LlmSignals
    layer: int
    place: PromptPlace
    spots: Tensor
    hidden: Tensor
    rotary: tuple[Tensor, Tensor]

    def read(self, signal: Signal) -> Tensor:
        """Compute one signal: of the M candidates, or of the T rows of the question."""
        name, layer = signal.name, self.layer - 1 if signal.layer is None else int(signal.layer)
        if name in ATTENTION_SIGNALS:
            return self._seen(ATTENTION_SIGNALS[name], layer, self.text[0] if name == "text_keys" else self.spots)
        if name in NEXT_LAYER_SIGNALS:
            return _last(self._next(name), self.spots)
        if name == "states":
            return self._states(self.spots)
        return self._of_text(name) if name in TEXT_SIGNALS else self._entered(name)

    def _seen(self, name: str, layer: int, spots: Tensor) -> Tensor:
        """What a watched layer left, for positions in the present sequence."""
        place, values = self.inside.seen[name, layer]
        spots = place.where(gather_tokens(self.place.index, spots).to(values.device), self.inside.query.shape[1])
        return self._from_start(gather_tokens(values, spots)).flatten(2) if name == "keys" else _last(values, spots)

    def _from_start(self, keys: Tensor) -> Tensor:
        """Keys (B, M, G, d) as if the prompt began at position 0: padding on its left must not turn them."""
        first = self.place.alive.int().argmax(1, keepdim=True)  # (B, 1)
        cos, sin = _at(self.rotary, first)
        attention = self.inside.language_model.layers[self.layer].self_attn
        keys = keys.transpose(1, 2).float()
        return apply_rotary(attention, keys, keys, (cos.float(), -sin.float()))[1].transpose(1, 2)

    def _states(self, spots: Tensor) -> Tensor:
        """Hidden states after the language model's final norm."""
        normed: Tensor = self.inside.language_model.norm(gather_tokens(self.hidden, spots.to(self.hidden.device)))
        return normed

    def _of_text(self, name: str) -> Tensor:
        spots, real = self.text
        if name == "text_mask":
            return real
        if name == "text_states":
            return self._states(spots)
        assert self.inside.embeds is not None
        return gather_tokens(self.inside.embeds, gather_tokens(self.place.index, spots).to(self.inside.embeds.device))

    def _entered(self, name: str) -> Tensor:
        """All visual tokens that entered the language model, fillers first."""
        assert self.inside.embeds is not None
        index, real = pack_rows(self.inside.entered, int(self.inside.entered.sum(1).max()))
        return (
            real if name == "entered_mask" else gather_tokens(self.inside.embeds, index.to(self.inside.embeds.device))
        )

    @cached_property
    def text(self) -> tuple[Tensor, Tensor]:
        """The question's rows in the sequence: (B, T), and which are real."""
        return self.inside.rows(self.place, self.inside.queries)

    def _next(self, name: str) -> Tensor:
        """Attention in the layer that is entered, by its own weights.

        Of the question's last row, (B, H, S), or the mean over heads and over all its rows, (B, S).
        """
        layer, device = self.inside.language_model.layers[self.layer], self.hidden.device
        attention, x = layer.self_attn, layer.input_layernorm(self.hidden)
        one = self.inside.rows(self.place, 1) if name == "next_attention" else self.text
        rows, counted = (part.to(device) for part in one)
        query = project_heads(attention, "q", gather_tokens(x, rows))  # of no other row
        query = apply_rotary(attention, query, query, _at(self.rotary, rows))[0]
        key = project_heads(attention, "k", x)
        key = apply_rotary(attention, key, key, self.rotary)[1]
        bias = torch.where(self.place.alive.to(device), 0.0, ABSENT_LOGIT)
        if name == "next_attention":
            return attention_rows(query, key, attention.scaling, rows, bias)[:, :, 0]
        return mean_attention_rows(query, key, attention.scaling, rows, counted, bias)


def _at(rotary: tuple[Tensor, Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """RoPE's cosines and sines (B or 1, S, d) at rows (B, T)."""
    cos, sin = (gather_tokens(part, rows.to(part.device)) for part in rotary)
    return cos, sin


def _last(values: Tensor, spots: Tensor) -> Tensor:
    """Values (B, ..., S) at spots (B, M): (B, ..., M)."""
    spots = spots.to(values.device).reshape(spots.shape[0], *[1] * (values.dim() - 2), -1)
    return values.gather(-1, spots.expand(*values.shape[:-1], -1))
