"""One call of the model on a prompt with images, from the visual features to the final hidden states."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from learnpruner.core.plan_spec import Stage
from learnpruner.core.selection import gather_tokens
from learnpruner.core.signals import Signal
from learnpruner.engine import question_embeddings
from learnpruner.engine.cache import attach_session, physical_lengths
from learnpruner.engine.driver import AttentionHook
from learnpruner.engine.image_layout import ImageLayout, align_features, align_signal, image_layout
from learnpruner.engine.prefill_trace import PrefillTrace
from learnpruner.engine.prompt import Prompt, PromptSequence
from learnpruner.engine.resolved_plan import ResolvedPlan
from learnpruner.engine.segments import LayerInputs
from learnpruner.engine.sequence_state import SequenceState
from learnpruner.engine.vision_stages import ImageTokens
from learnpruner.utils.errors import UserError


class Prefill:
    """One call of the model on a prompt with images.

    Attributes:
        seen: signals of the vision tower, as they are computed. session, inputs of the layers: from the language model
            on.
    """

    def __init__(self, setup: ResolvedPlan, prompt: Prompt) -> None:
        self.setup, self.prompt = setup, prompt
        self.seen: dict[Signal, Tensor] = {}
        self.session: SequenceState | None = None
        self.inputs = LayerInputs()

    # -- before the language model ------------------------------------------------------------------------------

    def features(self, features: Tensor) -> Tensor | None:
        """Let stages at the encoder choose from the tap's input; in physical mode the projector sees what they keep.

        Args:
            features: as the projector gets them.

        Returns:
            What the projector gets in place of them; None leaves them.
        """
        if self.prompt.images is not None:
            return None
        family, inputs = self.setup.family, self.prompt.inputs
        rows = family.split_features(features)
        layout = image_layout(family, (rows.shape[0], rows.shape[1]), inputs)
        images = ImageTokens(align_features(family, layout, rows, inputs), layout, family.grids(layout.shows, inputs))
        self.prompt.images = images
        self._narrow(images, [stage for stage in self.setup.before if stage.at == "encoder"])
        if self.setup.shortens:
            self._tapped = features.shape[:-1]
            return images.tokens
        if images.merged and family.projector_is_pointwise:
            return layout.back(images.spread(align_features(family, layout, rows, inputs)), features)
        return None

    def projected(self, output: Tensor) -> Tensor | None:
        """Lay the tap's output out over all features again, where it was given kept tokens only; None leaves it."""
        images = self.prompt.images
        if images is None or not self.setup.shortens:
            return None
        images.tokens = output
        zeros = output.new_zeros(()).expand(*self._tapped, output.shape[-1])
        return images.layout.back(images.spread(), zeros)

    def _enter(self, x: Tensor) -> Tensor:
        """Stages at 0 choose from the prompt's embeddings, (B, L, D); returns them with what kept tokens become.

        Where the way from features to placeholders mixes neighbours, merges of earlier stages are carried out here.
        """
        images, stages = self.prompt.images, [stage for stage in self.setup.before if stage.at != "encoder"]
        assert images is not None
        merges = [] if self.setup.family.projector_is_pointwise or not images.merged else list(images.selections)
        if not stages and not merges:
            return x
        places = self.prompt.placeholders.to(x.device)
        repeats = x.shape[0] // places.shape[0]  # beams of a row are alike
        rows = x[::repeats, : places.shape[1]]
        shown = rows[places]
        tokens = images.layout.read(shown)
        images.tokens = functools.reduce(lambda left, chosen: chosen.apply(left), merges, tokens)
        if not merges:
            images.tokens = gather_tokens(tokens, images.index)
        known = len(images.selections)
        self._narrow(images, stages)
        if not merges and not any(chosen.changes for chosen in images.selections[known:]):
            return x
        shown = images.layout.write(shown, images.spread(tokens))
        rows = rows.masked_scatter(places[..., None], shown).repeat_interleave(repeats, 0)
        return torch.cat([rows, x[:, places.shape[1] :]], 1)

    def _narrow(self, images: ImageTokens, stages: list[Stage]) -> None:
        for stage in stages:
            number = len(images.kept)
            keep = [self.setup.counts(size)[number] for size in images.sizes]
            asked = question_embeddings.question_signals(stage.pruner.needs, self.setup.family, self.prompt)
            owner = question_embeddings.prompt_of_images(self.prompt).tolist() if stage.pruner.joint else None
            words = question_embeddings.question_lengths(stage.pruner.needs, self.prompt)
            images.narrow(stage, keep, self._signals(stage, images.layout), asked, words, owner)
            if (
                images.selections[-1].values is not None
                and stage.at == "encoder"
                and not self.setup.family.projector_is_pointwise
            ):
                raise UserError(
                    f"{type(stage.pruner).__name__} changes features, which this model mixes on their way to the "
                    "prompt: put the stage at 0."
                )

    def _signals(self, stage: Stage, layout: ImageLayout) -> dict[Signal, Tensor]:
        """What the tower's signals say of the visual tokens; one that is not over tokens speaks by its first piece."""
        family, inputs = self.setup.family, self.prompt.inputs
        return {
            signal: align_signal(family, layout, values, signal.axis, inputs)
            for signal, values in self.seen.items()
            if signal in stage.pruner.needs
        }

    # -- the language model's prompt ------------------------------------------------------------------------------

    def begin(self, kwargs: dict[str, Any], cache: Cache | None) -> dict[str, Any]:
        """Start the language model on the prompt.

        Args:
            kwargs: its arguments.
            cache: that the prompt fills, if any.

        Returns:
            The arguments that it gets in place of its own.
        """
        x = self._enter(kwargs["inputs_embeds"])  # (B, L, D)
        self.sequence = PromptSequence(self.prompt, x)
        self.cache, self.session = cache, self._start(self.sequence)
        attach_session(cache, self.session)
        first = self.session.segments[0]
        entered, self.inputs = self.session.enter(x, cache)
        return {
            "inputs_embeds": entered,
            "position_ids": self.session.positions(kwargs.get("position_ids"), x.device),
            **self.setup.family.other_inputs(kwargs, first.index, first.present),
        }

    def _start(self, sequence: PromptSequence) -> SequenceState:
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
        budgets = [setup.counts(size) for size in images.sizes]
        adaptive = {
            number: sequence.of_images(images.kept[number].float(), structural=0.0, text=0.0) > 0
            for number, stage in enumerate(setup.before)
            if stage.pruner.adaptive
        }
        unscored = [chosen.unscored for chosen in images.selections if chosen.unscored is not None]
        return SequenceState(setup, sequence, keep, alive, gates, budgets, adaptive, unscored)

    def enter_layer(self, index: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Let the stages choose that act on entry to a layer.

        Args:
            index: of the layer.
            hidden: (B, S, D), what enters it.
            rotary: the model's own cosines and sines.

        Returns:
            The hidden states that the layer runs on.
        """
        assert self.session is not None
        for number, (stage, cut) in enumerate(self.setup.inside, start=len(self.setup.before)):
            if cut == index:
                here = self.inputs.rotary or rotary  # an earlier stage may have shortened the model's own
                hidden, self.inputs = self.session.narrow(number, stage, cut, hidden, here, self.cache)
        return hidden

    def driver(self, index: int) -> AttentionHook | None:
        """Make what a layer's attention does beside its own work; None for nothing."""
        assert self.session is not None
        watch = functools.partial(self.session.watch, index) if index in self.setup.watched else None
        bias = self.inputs.bias
        return AttentionHook(watch, bias) if watch is not None or bias is not None else None

    def finish(self, hidden: Tensor) -> tuple[Tensor, PrefillTrace]:
        """Lay the final hidden states (B, S, D) out over the whole prompt again, (B, L, D), and tell what was done."""
        session, images = self.session, self.sequence.images
        assert session is not None
        layers = self.setup.family.layers
        before = [self.sequence.attention & (self.sequence.of_images(kept.float()) > 0) for kept in images.kept]
        inside = [session.alive(segment) for segment in session.segments[1:]]
        record = PrefillTrace(
            visual=self.sequence.placeholders,
            slots=images.layout.slots,
            shape=images.shape,
            grids=images.grids,
            cuts=self.setup.cuts,
            layers=layers,
            selections=[*images.selections, *session.selections],
            alive=[self.sequence.of_call(alive) for alive in (*before, *inside)],
            budget=session.budget(layers, self.setup.cuts),
            cached=physical_lengths(self.cache, layers),
        )
        return session.leave(hidden), record
