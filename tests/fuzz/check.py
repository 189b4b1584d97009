"""Holds one case against the oracle."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fuzz import calls
from fuzz.calls import Ran
from fuzz.case import Case
from fuzz.choice import budget, images
from fuzz.decisions import Decisions, decisions
from fuzz.oracle import Outcome, delete
from fuzz.reading import Reading, read
from learnpruner.engine.prefill_trace import PrefillTrace
from learnpruner.utils.errors import UserError

TOLERANCE = 1e-4
MAY = (  # be said of a row alone, and of a call with such a row
    "all patches of an image",
    "single images, and this is a video",
    "which this model mixes on their way",
)


class Refused(Exception):
    """The engine refuses this case, for a reason that is listed."""


class Tie(Exception):
    """Weights that differ in their last digits decide otherwise: no answer is right."""


class Check:
    """One case on its way; `found` are the mismatches, a sentence each."""

    def __init__(self, case: Case) -> None:
        self.case, self.found = case, list[str]()
        self.ids, self.real = (made := case.batch())["input_ids"], calls.real(made)
        self.rows = range(len(case.rows))

    def run(self) -> list[str]:
        case, inputs = self.case, calls.batch(self.case)
        whole = self._carried_out(inputs)
        outcomes = self._held("forward", whole)
        if whole.record is not None:
            self.found += budget(self.case, whole.record)
        self._alone(whole, outcomes[case.alone])
        if case.masked:
            masked = calls.forward(case, inputs, "masked", case.pool)
            if self._same("masked mode", inputs, masked, _alive(whole)):
                self._logits("masked", masked, outcomes)
                self._loss("masked", masked, outcomes)
        if case.follow != "none":
            self._held(case.follow, calls.turns(case) if case.follow == "turns" else calls.generate(case))
        return self.found

    def _carried_out(self, inputs: dict[str, Any]) -> Ran:
        """The whole call; what refuses it must refuse a row alone as well."""
        try:
            return calls.forward(self.case, inputs)
        except UserError as error:
            if any(reason in str(error) for reason in MAY) and any(map(self._refuses, self.rows)):
                raise Refused(str(error)) from None
            raise

    def _refuses(self, row: int) -> bool:
        try:
            calls.forward(self.case, calls.batch(self.case, row))
        except UserError:
            return True
        return False

    # -- against deletion -----------------------------------------------------------------------------------------

    def _held(self, what: str, ran: Ran) -> list[Outcome]:
        """Positions left, logits, loss and cache of a call."""
        readings = [self._reading(row, ran, what == "generate") for row in self.rows]
        decided = [Decisions() for _ in self.rows]
        if ran.record is not None:
            cuts = self.case.plan.cuts(self.case.on.family.layers)
            sizes = [[len(spots) for spots in reading.spots] for reading in readings]
            decided = decisions(ran.record.selections, cuts, sizes)
            if what == "forward":
                self.found += images(self.case, ran.record, readings, decided)
        pairs = zip(readings, decided, strict=True)
        outcomes = [delete(self.case.on, reading, one, self.case.plan) for reading, one in pairs]
        self._positions(what, ran.record, outcomes)
        self._logits(what, ran, outcomes)
        self._loss(what, ran, outcomes)
        more = 0 if ran.said is None else ran.said.shape[1] - ran.said.sum(1)  # padding is held as well
        held = torch.tensor([outcome.lengths for outcome in outcomes]).T + more
        wanted = held.amax(1).tolist()
        if ran.lengths is not None and ran.record is not None and ran.lengths != wanted:
            self.found.append(f"{what}: the cache holds {ran.lengths} tokens by layer, not {wanted}")
        return outcomes

    def _reading(self, row: int, ran: Ran, generated: bool) -> Reading:
        features = ran.record is not None and self.case.plan.stages[0].at == "encoder" and not self.case.on.mixes
        reading = read(self.case.on, self.case.batch(row), len(self.case.images(row)), features)
        if ran.new is None or ran.said is None:
            return reading
        return reading.followed(ran.new[row][ran.said[row]], generated)

    def _positions(self, what: str, record: PrefillTrace | None, outcomes: list[Outcome]) -> None:
        for row, outcome in enumerate(outcomes if record is not None else []):
            assert record is not None
            for number, (alive, after) in enumerate(zip(record.alive, outcome.after, strict=True)):
                there = alive[row][self.real[row]].nonzero()[:, 0].tolist()
                if there != [place for place in after if place < self.real[row].sum()]:
                    self.found.append(f"{what}, row {row}: the record tells of other positions after stage {number}")

    def _logits(self, what: str, ran: Ran, outcomes: list[Outcome]) -> None:
        """At every real position those of the last token that was kept there or before."""
        for row, outcome in enumerate(outcomes):
            length = int(self.real[row].sum())
            kept = torch.tensor([place for place in outcome.kept if place < length])
            said = torch.arange(length) >= kept[0]
            last = torch.searchsorted(kept, torch.arange(length)[said], right=True) - 1
            found, expected = ran.logits[row], outcome.logits[last]
            if what == "generate":
                self._compare(f"{what}, row {row}, the first token", found, expected[-1:])
            else:
                self._compare(f"{what}, row {row}", found[self.real[row]][said], expected)
            if ran.following is not None and ran.said is not None:
                after = ran.following[row][ran.said[row]]
                self._compare(f"{what}, row {row}, what follows", after, outcome.logits[len(kept) :])

    def _compare(self, what: str, found: Tensor, expected: Tensor) -> None:
        off = (found - expected).abs()
        if not bool((off <= TOLERANCE).all()):
            bad = int((~(off <= TOLERANCE)).any(-1).sum())
            self.found.append(f"{what}: logits are {off.max().item():.2g} off at {bad} of {len(off)} positions")

    def _loss(self, what: str, ran: Ran, outcomes: list[Outcome]) -> None:
        """The mean over what the shorter sequences predict."""
        if ran.loss is None:
            return
        logits, following = [], []
        for row, outcome in enumerate(outcomes):
            labels = self.case.labels(self.ids[row][self.real[row]], row)[outcome.kept]
            if outcome.kept[0] and labels[0] != -100:
                return  # everything before it was dropped, and nothing predicts it
            logits.append(outcome.logits[:-1])
            following.append(labels[1:])
        expected = F.cross_entropy(torch.cat(logits), torch.cat(following))
        if expected.isfinite() and not (ran.loss - expected).abs() <= TOLERANCE:
            self.found.append(f"{what}: the loss is {ran.loss:.5f}, not {expected:.5f}")

    # -- without mates --------------------------------------------------------------------------------------------

    def _alone(self, whole: Ran, outcome: Outcome) -> None:
        """A row keeps the same tokens, and says the same, without its mates."""
        row = self.case.alone
        inputs = calls.batch(self.case, row)
        alone = calls.forward(self.case, inputs)
        kept = [alive[row : row + 1, self.real[row]] for alive in _alive(whole)]
        if self._same(f"row {row} alone", inputs, alone, kept):
            found, expected = alone.logits[0][outcome.kept], whole.logits[row][self.real[row]][outcome.kept]
            self._compare(f"row {row} alone", found, expected)

    def _same(self, what: str, inputs: dict[str, Any], ran: Ran, expected: list[Tensor]) -> bool:
        """Whether a call kept the tokens that the whole batch did: (B, L) a stage."""
        for number, (mine, ours) in enumerate(zip(_alive(ran), expected, strict=True)):
            if not torch.equal(mine, ours):
                if self._tied(inputs):
                    raise Tie
                self.found.append(f"{what} keeps other tokens after stage {number}")
                return False
        return True

    def _tied(self, inputs: dict[str, Any]) -> bool:
        """Whether weights that differ in their last digits decide otherwise."""
        expected = _alive(calls.forward(self.case, inputs))
        for seed in range(3):
            model, draw = copy.deepcopy(self.case.on.model), torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                parameter.mul_(1 + 1e-6 * torch.randn(parameter.shape, generator=draw))
            again = _alive(calls.forward(self.case, inputs, model=model))
            if any(not torch.equal(a, b) for a, b in zip(expected, again, strict=True)):
                return True
        return False


def _alive(ran: Ran) -> list[Tensor]:
    """(B, L) what each stage left."""
    assert ran.record is not None
    return ran.record.alive
