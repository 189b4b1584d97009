"""Random plans: methods of `conf/pruner` in their own configs, or one to four of their pruners at the encoder, 0, any layer."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from random import Random
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from fuzz.subjects import Subject
from learnpruner import Plan, Pruner, Stage
from learnpruner.core.budget import InfeasibleBudget

FOLDER = Path(__file__).parents[2] / "conf" / "pruner"
METHODS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
FILES = {"weights": None}  # settings that name a file beside a backbone
Place = str | int


@functools.cache
def config(method: str) -> Any:
    """A method's config."""
    given = OmegaConf.load(FOLDER / f"{method}.yaml")
    for stage in given.stages:
        stage.pruner.update({name: value for name, value in FILES.items() if name in stage.pruner})
    return given


def pruner(method: str, number: int = 0) -> Pruner:
    """The pruner of one of a method's stages, with random weights where it learns."""
    return instantiate(config(method).stages[number].pruner)


def at(method: str, number: int, layers: int) -> Place:
    """Where a method's stage is: "encoder", 0 or a layer."""
    place = config(method).stages[number].at
    return place if place == "encoder" else Stage(Pruner(), place).cut(layers)


@functools.cache
def fits(on: Subject, method: str, number: int, place: Place) -> bool:
    """Whether a model gives the stage what it reads at this place."""
    try:
        Plan([Stage(pruner(method, number), place)], 1.0).attach(on.model)
    except ValueError:
        return False
    Plan().detach(on.model)
    return True


def places(on: Subject, method: str, number: int) -> list[Place]:
    """All places that fit a stage: what reads projected tokens does not stand before the projector."""
    inside = list(range(on.family.earliest_cut, on.family.layers))
    early = [] if at(method, number, on.family.layers) != "encoder" else ["encoder"]
    found: list[Place] = [place for place in (*early, 0) if fits(on, method, number, place)]
    return found + (inside if fits(on, method, number, inside[0]) else [])


def numbers(method: str) -> list[tuple[str, int]]:
    """A method's stages."""
    return [(method, number) for number in range(len(config(method).stages))]


def whole(on: Subject, method: str) -> bool:
    """Whether a method's own config fits a model."""
    return all(fits(on, *stage, at(*stage, on.family.layers)) for stage in numbers(method))


EVERY = [stage for method in METHODS for stage in numbers(method)]


def draw(rng: Random, on: Subject, turn: int) -> Plan:
    """A plan in which the `turn`-th method takes part, where it fits, at a budget that it can have."""
    method = METHODS[turn % len(METHODS)]
    if rng.random() < 0.4 and whole(on, method):
        made = [
            Stage(pruner(method, number), stage.at, stage.get("token_share", 1.0))
            for number, stage in enumerate(config(method).stages)
        ]
    else:
        made = _stages(rng, on, method)
    compact = on.family.rotary_axes == 1 and rng.random() < 0.5
    plan = _feasible(made, _ratio(rng), "compact" if compact else "original", on)
    return _weighed(plan, on, rng.randrange(10**6)).eval()


def _stages(rng: Random, on: Subject, method: str) -> list[Stage]:
    """One to four stages by depth, with shares that never grow."""
    chosen = [stage for stage in numbers(method) if places(on, *stage)][:1]
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 4]) - len(chosen)):
        stage = rng.choice(EVERY)
        while not places(on, *stage):
            stage = rng.choice(EVERY)
        chosen.append(stage)
    drawn = [(_place(rng, on, *stage), stage) for stage in chosen]
    drawn.sort(key=lambda one: -1 if one[0] == "encoder" else one[0])
    shares = sorted((rng.choice([1, 1, 2, 3, 5]) for _ in drawn), reverse=True)
    return [Stage(pruner(*stage), place, share) for (place, stage), share in zip(drawn, shares, strict=True)]


def _place(rng: Random, on: Subject, method: str, number: int) -> Place:
    """A stage's own place more often than another that fits it."""
    own, every = at(method, number, on.family.layers), places(on, method, number)
    if own in ("encoder", 0) and own in every and rng.random() < 0.7:
        return own
    return rng.choice(every)


def _ratio(rng: Random) -> float:
    """0.02 to 1, and often 1."""
    return 1.0 if rng.random() < 0.15 else round(math.exp(rng.uniform(math.log(0.02), 0.0)), 3)


def _feasible(made: list[Stage], ratio: float, positions: Any, on: Subject) -> Plan:
    """At this budget, or at the smallest that the stages can have."""
    plan = Plan(made, ratio, positions)
    try:
        plan.counts(on.family.tokens, on.family.layers)
    except InfeasibleBudget as error:
        return Plan(made, error.smallest, positions)
    return plan


def _weighed(plan: Plan, on: Subject, seed: int) -> Plan:
    """With random weights in what learns, biases and norms included."""
    torch.manual_seed(seed)
    plan.prepare(on.family)
    for parameter in plan.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return plan
