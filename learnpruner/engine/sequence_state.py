"""One prompt on its way through the LLM, and the tokens that follow it: what is left of it, layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.masking_utils import create_causal_mask

from learnpruner.core.plan_spec import Stage
from learnpruner.core.selection import Selection, gather_tokens
from learnpruner.core.signals import View
from learnpruner.engine.llm_signals import LlmSignals, PromptPlace
from learnpruner.engine.masks import bias_depth, key_bias
from learnpruner.engine.packing import consecutive_positions, forward_fill, pack_rows, scatter_tokens
from learnpruner.engine.prompt import PromptSequence
from learnpruner.engine.resolved_plan import ResolvedPlan
from learnpruner.engine.row_groups import choose_by_kind
from learnpruner.engine.segments import LayerInputs, LayerSegment, RotaryEmbeddings
from learnpruner.utils.errors import UserError


class SequenceState:
    """The state of one prompt. Once the prompt has passed it does not change: its cache, and copies of that, share it.

    Attributes:
        length: L of the prompt before anything was dropped.
        asked: of these, without candidates behind the prompt.
        texts, left: tokens of text, and visual tokens alive, a row.
        wanted: budget of each stage and row.
        inside: what stages of this prompt read.
    """

    def __init__(
        self,
        setup: ResolvedPlan,
        sequence: PromptSequence,
        keep: Tensor,
        alive: Tensor,
        gates: list[Tensor],
        budgets: list[tuple[int, ...]],
        adaptive: dict[int, Tensor],
        unscored: Sequence[Tensor] = (),
    ) -> None:
        """Begin with what the stages before the LLM left.

        Args:
            setup: the plan on the model.
            sequence: the prompt.
            keep: (B, L) bool, what stays in the sequence.
            alive: (B, L) bool, what may be attended to.
            gates: (B, L) one a stage, in masked mode.
            budgets: of each image, a stage each.
            adaptive: what stages kept that choose their budgets themselves, (B, L).
            unscored: of each stage so far, whether it chose by scores that are no numbers.
        """
        self.language_model: Any = setup.family.language_model
        self.compact, self.masked, self.pooled = setup.compact, setup.masked, setup.pool is not None
        self.length, self.asked = keep.shape[1], keep.shape[1] - sequence.extra
        facts = [keep, alive & sequence.visual, sequence.text, sequence.visual, sequence.query, *adaptive.values()]
        facts += [flag.to(keep.device).expand_as(keep) for flag in unscored]
        numbers = torch.stack(facts).sum(-1).tolist()  # the one wait for the device
        counts, self.left, self.texts, self.visuals, queries, *chosen = numbers
        if any(map(any, chosen[len(adaptive) :])):
            raise UserError(
                "A stage's scores are no numbers, so that its choice says nothing: its weights are damaged, or its "
                "training went astray; load another export, or train with a smaller optimizer.lr."
            )
        self.wanted = sequence.totals(zip(*budgets, strict=True), self.visuals)
        for number, kept in zip(adaptive, chosen[: len(adaptive)], strict=True):
            self.wanted[number] = kept
        index, present = pack_rows(keep, max(counts))
        gates = [gather_tokens(gate, index) for gate in gates]
        self.segments = [
            LayerSegment(0, index, present, gather_tokens(alive, index) & present, min(counts) == max(counts), gates)
        ]
        self.visual = gather_tokens(sequence.visual, index)
        entered = alive & sequence.visual
        self.inside = LlmSignals(self.language_model, setup.watched, sequence.query, queries, entered)
        self.selections: list[Selection] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> SequenceState:
        return copy.copy(self)

    def moved(self, rows: Callable[[Tensor], Tensor]) -> SequenceState:
        """Copy it for other rows of the batch; rows: picks them, (B, ...) -> (B', ...)."""
        twin = copy.copy(self)
        twin.segments = [
            replace(s, index=rows(s.index), present=rows(s.present), alive=rows(s.alive), gates=[])
            for s in self.segments
        ]
        return twin

    @property
    def dropped(self) -> int:
        """Positions by which the first layer's cache is shorter than the prompt."""
        return self.length - self.segments[0].index.shape[1]

    @property
    def starts(self) -> set[int]:
        """Layers on whose entry the sequence changes."""
        return {segment.start for segment in self.segments}

    def budget(self, layers: int, cuts: tuple[int, ...]) -> list[int]:
        """Tell how many tokens each layer's cache should hold behind the prompt, by the plan: (L,), of the longest row."""
        stages = [sum(cut <= layer for cut in cuts) for layer in range(layers)]
        wanted = [self.visuals, *self.wanted]
        return [max(text + v for text, v in zip(self.texts, wanted[number], strict=True)) for number in stages]

    # -- the prompt ---------------------------------------------------------------------------------------------

    def enter(self, x: Tensor, cache: Cache | None) -> tuple[Tensor, LayerInputs]:
        """Make the sequence of the first segment, x (B, L, D) -> (B, S, D), and what its layers get."""
        self.inside.embeds = x
        x = gather_tokens(x, self.segments[0].index.to(x.device))
        return x, self._inputs(x, cache, None)

    def positions(self, given: Tensor | None, device: torch.device) -> Tensor:
        """Make the position ids of the first segment; given (B or 1, L) or (axes, B, L), the caller's own."""
        segment = self.segments[0]
        if self.compact:
            return consecutive_positions(segment.alive).to(device)
        if given is None:
            return segment.index.to(device)
        index = segment.index.to(given.device)
        return (
            gather_tokens(given, index)
            if given.dim() == 2
            else torch.stack([gather_tokens(axis, index) for axis in given])
        )

    def watch(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Read a watched layer's queries (B, H, S, d) and keys (B, G, S, d); its attention calls this."""
        self.inside.watch(layer, self.place, query, key, scaling)

    @property
    def place(self) -> PromptPlace:
        """The newest segment's sequence."""
        return PromptPlace(self.segments[-1].index, self.segments[-1].alive)

    def narrow(
        self, number: int, stage: Stage, layer: int, hidden: Tensor, rotary: RotaryEmbeddings, cache: Cache | None
    ) -> tuple[Tensor, LayerInputs]:
        """Let stage `number` of the plan choose on entry to `layer`, which hidden (B, S, D) enters.

        Returns:
            The hidden states of a new segment, and what its layers get.
        """
        segment, most = self.segments[-1], max(self.left)
        spots, real = pack_rows(self.visual & segment.alive, most)  # (B, M) candidates in the segment
        tokens = gather_tokens(hidden, spots.to(hidden.device))
        valid = None if min(self.left) == most else real.to(hidden.device)
        seen = self.inside.signals(stage.pruner.needs, layer, self.place, spots, hidden, rotary)
        view = View(tokens, valid, None, seen)
        keep = [min(wanted, left) for wanted, left in zip(self.wanted[number], self.left, strict=True)]
        chosen = choose_by_kind(stage.pruner, view, keep, self.inside.kinds(stage.pruner.needs, self.left))
        self.selections.append(chosen)
        if chosen.changes:
            places = gather_tokens(spots, chosen.index).to(hidden.device)
            hidden = scatter_tokens(hidden, places, chosen.apply(tokens), chosen.valid)
        picked = chosen.mask(most).to(real.device) & real
        alive = segment.alive & (~self.visual | torch.zeros_like(self.visual).scatter(1, spots, picked))
        self.left = [chosen.index.shape[1]] * len(keep) if chosen.valid is None else picked.sum(1).tolist()
        if stage.pruner.adaptive:
            self.wanted[number] = self.left
        if self.masked and (chosen.gate is not None or not self.pooled):
            self._close_gates(layer, alive, spots, real, picked.float() if chosen.gate is None else chosen.gate)
        else:
            hidden, rotary = self._shorten(layer, alive, hidden, rotary)
        return hidden, self._inputs(hidden, cache, rotary)

    def _close_gates(self, layer: int, alive: Tensor, spots: Tensor, real: Tensor, gate: Tensor) -> None:
        """Masked mode: the sequence stays; one more gate (B, M) bears on the keys of the candidates."""
        gate = torch.where(real.to(gate.device), gate.float(), 1.0)
        gate = gate.new_ones(alive.shape).scatter(1, spots.to(gate.device), gate).to(alive.device)
        old = self.segments[-1]
        self.segments.append(LayerSegment(layer, old.index, old.present, alive, old.full, [*old.gates, gate]))

    def _shorten(
        self, layer: int, alive: Tensor, hidden: Tensor, rotary: RotaryEmbeddings
    ) -> tuple[Tensor, RotaryEmbeddings]:
        """What is no longer alive leaves the sequence; in masked mode the pool of an earlier stage's gate stays."""
        old = self.segments[-1]
        keep, counts = alive, [text + left for text, left in zip(self.texts, self.left, strict=True)]
        if self.masked:
            keep = alive | old.present & ~old.alive
            counts = keep.sum(1).tolist()
        spots, present = pack_rows(keep, max(counts))
        self.visual = gather_tokens(self.visual, spots)
        gates = [gather_tokens(gate, spots) for gate in old.gates]
        full = min(counts) == max(counts)
        self.segments.append(
            LayerSegment(
                layer, gather_tokens(old.index, spots), present, gather_tokens(alive, spots) & present, full, gates
            )
        )
        cos, sin = (gather_tokens(part, spots.to(part.device)) for part in rotary)
        return gather_tokens(hidden, spots.to(hidden.device)), (cos, sin)

    def _inputs(self, x: Tensor, cache: Cache | None, rotary: RotaryEmbeddings | None) -> LayerInputs:
        """What the layers of the newest segment get; rotary None where the model computes it from position ids."""
        segment = self.segments[-1]
        if self.compact and rotary is not None:
            rotary = self.language_model.rotary_emb(x, consecutive_positions(segment.alive).to(x.device))
        if self.masked:
            kind = x.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
            below = bias_depth(self.language_model.layers[0].self_attn.scaling, dtype)
            return LayerInputs(rotary=rotary, bias=key_bias(segment.gates, segment.present, below))
        return LayerInputs(self.mask(x, cache, None if segment.full else segment.present, segment.start), rotary)

    def leave(self, hidden: Tensor) -> Tensor:
        """Lay final hidden states (B, S, D) out over the whole prompt again: (B, L, D)."""
        self.inside.close()
        segment = self.segments[-1]
        if not self.masked and segment.full and hidden.shape[1] == self.length:
            return hidden  # nothing was dropped, and no padding moved
        return gather_tokens(hidden, forward_fill(segment.index, segment.alive, self.length).to(hidden.device))

    def alive(self, segment: LayerSegment) -> Tensor:
        """Mark which prompt positions a segment attends to: (B, L)."""
        return torch.zeros_like(self.inside.query).scatter(1, segment.index, segment.alive)

    def mask(self, x: Tensor, cache: Cache | None, present: Tensor | None, layer: int) -> Any:
        """Make the causal mask for the layers' own attention function; position gaps must not look like packed samples.

        Args:
            x: (B, q, D), what enters the layers.
            cache: of the prompt, if any.
            present: (B, S) bool, which keys are there; None for all.
            layer: the segment's first.
        """
        return create_causal_mask(self.language_model.config, x, present, cache, position_ids=None, layer_idx=layer)
