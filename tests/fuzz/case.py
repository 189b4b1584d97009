"""One random case: a model, a batch, a plan, and what is asked of them. It follows from its seed and number alone."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from fuzz import draws, prompts
from fuzz.prompts import Row, Shown
from fuzz.subjects import KINDS, Subject, subject
from learnpruner import Plan

ANSWERS = ("none", "tail", "some")  # which tokens have labels


@dataclass(frozen=True)
class Case:
    """follow: what comes after the prompt, "generate", "turns" or nothing. pool: of masked mode, which is left out if not masked.

    bare: without an attention mask where nothing is padded. alone: the row that is run without its mates, too.
    """

    number: int
    on: Subject
    medium: str
    rows: list[Row]
    side: str
    plan: Plan
    answers: str
    follow: str
    masked: bool
    pool: int | None
    bare: bool
    alone: int

    def batch(self, only: int | None = None) -> dict[str, Any]:
        """The inputs of the whole call, or those of a row alone."""
        rows = self.rows if only is None else [self.rows[only]]
        made = prompts.encode(self.on, self.medium, rows, self.side)
        if self.bare and bool(made["attention_mask"].all()):
            del made["attention_mask"]
        return made

    def images(self, row: int) -> list[Shown]:
        return prompts.shown(self.rows[row])

    def labels(self, ids: Tensor, row: int) -> Tensor:
        """Labels (L,) of the ids of a row without padding; -100 on what shows a picture."""
        labels = torch.where(torch.isin(ids, torch.tensor(self.on.marks)), -100, ids)
        if self.answers == "tail":
            labels[: len(ids) - 1 - (self.number + row) % 5] = -100
        else:
            draw = torch.rand(len(ids), generator=torch.Generator().manual_seed(self.number + row))
            labels[draw < 0.5] = -100
        labels[0] = -100  # nothing predicts it
        return labels

    def __str__(self) -> str:
        stages = " ".join(f"{type(stage.pruner).__name__}@{stage.at}:{stage.token_share}" for stage in self.plan.stages)
        follow = f" {self.follow}" * (self.follow != "none") + f" masked({self.pool})" * self.masked
        return (
            f"{self.on.name} {self.medium} {self.side} {'|'.join(map(prompts.describe, self.rows))} labels={self.answers} "
            f"{stages} {self.plan.prune_ratio:g} {self.plan.positions}{follow}"
        )


def kind(number: int) -> tuple[str, str]:
    """The family of a case and what it shows."""
    return KINDS[number % len(KINDS)]


def draw(seed: int, number: int, again: int = 0) -> Case:
    """Case `number` of a seed; `again`: where that was refused, another."""
    name, medium = kind(number)
    on, rng = subject(name), Random(f"{seed}/{number}/{again}")
    rows = prompts.draw(rng, name, medium)
    side = rng.choice(["left", "right"])
    return Case(
        number=number,
        on=on,
        medium=medium,
        rows=rows,
        side=side,
        plan=draws.draw(rng, on, number + again),
        answers=rng.choice(ANSWERS),
        follow=rng.choice(["generate", "turns", "none"]) if side == "left" or len(rows) == 1 else "none",
        masked=rng.random() < 0.4,
        pool=rng.choice([None, None, 0, 3]),
        bare=rng.random() < 0.3,
        alone=rng.choice([number for number, row in enumerate(rows) if prompts.shown(row)]),
    )
