"""One call of the model on a prompt with images, from the visual features to the final hidden states."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from learnpruner.engine import question
from learnpruner.engine.cache import PrunedCache, lengths, remember
from learnpruner.engine.driver import Driver
from learnpruner.engine.prompt import Prompt, Sequence
from learnpruner.engine.record import Record
from learnpruner.engine.session import Session
from learnpruner.engine.setup import Setup
from learnpruner.engine.vision import Images
from learnpruner.plan import Stage
from learnpruner.pruner import Signal
from learnpruner.selection import take


class Call:
    """seen: signals of the vision tower, as they are computed. session, record: from the language model on."""

    def __init__(self, setup: Setup, prompt: Prompt) -> None:
        self.setup, self.prompt = setup, prompt
        self.seen: dict[Signal, Tensor] = {}
        self.session: Session | None = None

    # -- before the language model ------------------------------------------------------------------------------

    def features(self, features: Tensor) -> Tensor | None:
        """The tap's input: stages at the encoder choose; in physical mode the projector sees only what they keep."""
        if self.prompt.images is not None:
            return None
        tokens, valid = self.setup.adapter.candidates(features, self.prompt.inputs)
        images = self.prompt.images = Images(tokens, valid, self.setup.adapter.grid)
        self._narrow(images, [stage for stage in self.setup.before if stage.at == "encoder"])
        if self.setup.shortens:
            return images.tokens
        return images.spread(features) if images.merged else None

    def projected(self, output: Tensor) -> Tensor | None:
        """The tap's output: stages at 0 choose; what is left is laid out over all placeholders again."""
        images, stages = self.prompt.images, [stage for stage in self.setup.before if stage.at != "encoder"]
        if images is None or not (stages or self.setup.shortens):
            return None
        images.tokens = output if self.setup.shortens else take(output, images.index)
        self._narrow(images, stages)
        if self.setup.shortens:
            return images.spread()
        return images.spread(output) if images.merged else None

    def _narrow(self, images: Images, stages: list[Stage]) -> None:
        for stage in stages:
            number = len(images.kept)
            keep = [self.setup.counts(size)[number] for size in images.sizes]
            asked = question.signals(stage.pruner.needs, self.setup.adapter, self.prompt)
            owner = question.owners(self.setup.adapter, self.prompt) if stage.pruner.joint else None
            images.narrow(stage, keep, self.seen, asked, owner)

    # -- the language model's prompt ------------------------------------------------------------------------------

    def begin(self, kwargs: dict[str, Any], cache: Cache | None) -> dict[str, Any]:
        """The prompt reaches the language model: what it gets instead."""
        x = kwargs["inputs_embeds"]  # (B, L, D)
        self.sequence = Sequence(self.setup.adapter, self.prompt, x)
        self.cache, self.session = cache, self._start(self.sequence)
        remember(cache, self.session)
        if isinstance(cache, PrunedCache):
            cache.dropped = self.session.dropped
        first = self.session.segments[0]
        return {
            "inputs_embeds": self.session.enter(x, cache),
            "position_ids": self.session.positions(kwargs.get("position_ids"), x.device),
            **self.setup.adapter.other_inputs(kwargs, first.index, first.present),
        }

    def _start(self, sequence: Sequence) -> Session:
        """Which positions stay in the sequence (keep), and which of these may be attended to (alive)."""
        images, setup = sequence.images, self.setup
        keep = alive = sequence.attention
        if images.kept:
            keep = alive = alive & (sequence.of_images(images.kept[-1].float()) > 0)
        if setup.masked:
            keep = sequence.attention
            if setup.pool is not None and images.kept:
                keep = alive | keep & (sequence.of_images(images.pool(setup.pool).float()) > 0)
        gates = [sequence.of_images(gate) for gate in images.gates] if setup.masked else []
        return Session(setup, sequence, keep, alive, gates, self._wanted(sequence))

    def _wanted(self, sequence: Sequence) -> Tensor:
        """The budget of each stage and row, (stages, B): the sum over the row's images."""
        images = sequence.images
        budgets = zip(*(self.setup.counts(size) for size in images.sizes), strict=True)
        shares = [sequence.of_images(images.shares(budget), structural=0.0, text=0.0) for budget in budgets]
        return torch.stack(shares).sum(-1).round()

    def enter_layer(self, index: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Stages that act on entry to a layer choose."""
        assert self.session is not None
        for number, (stage, cut) in enumerate(self.setup.inside, start=len(self.setup.before)):
            if cut == index:
                here = self.session.layout.rotary or rotary  # an earlier stage may have shortened the model's own
                hidden = self.session.narrow(number, stage, cut, hidden, here, self.cache)
        return hidden

    def driver(self, index: int) -> Driver | None:
        """What a layer's attention does beside its own work."""
        assert self.session is not None
        watch = functools.partial(self.session.watch, index) if index in self.setup.watched else None
        bias = self.session.layout.bias
        return Driver(watch, bias) if watch is not None or bias is not None else None

    def finish(self, hidden: Tensor) -> tuple[Tensor, Record]:
        """Final hidden states over the whole prompt again, and what was done."""
        session, images = self.session, self.sequence.images
        assert session is not None
        layers = self.setup.adapter.layers
        before = [self.sequence.attention & (self.sequence.of_images(kept.float()) > 0) for kept in images.kept]
        inside = [session.alive(segment) for segment in session.segments[1:]]
        record = Record(
            visual=self.sequence.placeholders,
            slots=self.sequence.slots(),
            shape=images.shape,
            cuts=self.setup.cuts,
            layers=layers,
            selections=[*images.selections, *session.selections],
            alive=[self.sequence.of_call(alive) for alive in (*before, *inside)],
            budget=session.budget(layers, self.setup.cuts),
            cached=lengths(self.cache, layers),
        )
        return session.leave(hidden), record
