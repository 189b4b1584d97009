"""Small plans and an independent reference for the engine's tests."""

from __future__ import annotations

from typing import Any

import torch
from tiny import IMAGE
from torch import Tensor

from learnpruner import Plan, ScorePruner, Signal, Stage, View
from learnpruner.pruners.text_attention import TextAttention

KINDS = ("encoder", "zero", "inside", "two", "three")


class Norm(ScorePruner):
    """Ranks tokens by their norm: enough to choose differently for each image."""

    def score(self, view: View) -> Tensor:
        return view.tokens.float().norm(dim=-1)


class Seen(ScorePruner):
    """Remembers what it was given, in `seen`: by signal, or by name where it was asked for by name."""

    together = True

    def __init__(self, *asked: Signal | str) -> None:
        super().__init__()
        self.asked = {one: Signal(one) if isinstance(one, str) else one for one in asked}
        self.needs, self.seen = frozenset(self.asked.values()), {}

    def score(self, view: View) -> Tensor:
        self.seen = {one: view[signal] for one, signal in self.asked.items()}
        return view.tokens[..., 0]


def plan(kind: str = "two", ratio: float = 0.25, positions: Any = "original") -> Plan:
    """Stages by kind; at a ratio of 0.5 every kind is feasible with 6 layers."""
    stages = {
        "encoder": [Stage(Norm(), "encoder")],
        "zero": [Stage(Norm(), 0)],
        "inside": [Stage(TextAttention(), 2)],
        "two": [Stage(Norm(), "encoder", 3), Stage(TextAttention(), "12/32", 1)],
        "three": [Stage(Norm(), "encoder", 4), Stage(Norm(), 0, 3), Stage(TextAttention(), 2, 2), Stage(Norm(), 4, 1)],
    }
    return Plan(stages[kind], ratio, positions).eval()


def real(batch: dict[str, Tensor]) -> Tensor:
    """Positions that are no padding: (B, L)."""
    return batch["attention_mask"].bool()


def text(batch: dict[str, Tensor]) -> Tensor:
    """Positions of text: (B, L)."""
    return real(batch) & (batch["input_ids"] != IMAGE)


@torch.no_grad()
def masked_reference(model: Any, batch: dict[str, Tensor], cuts: tuple[int, ...], alive: list[Tensor]) -> Tensor:
    """Logits of the unmodified model at full length, where layers from cuts[i] on can't see what alive[i] excludes."""
    length = batch["input_ids"].shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()

    def four_d(keys: Tensor) -> Tensor:
        return (causal & keys[:, None]) | torch.eye(length, dtype=torch.bool)

    def substitute(mask: Tensor) -> Any:
        return lambda module, args, kwargs: (args, {**kwargs, "attention_mask": mask[:, None]})

    handles = []
    for index, layer in enumerate(model.model.language_model.layers):
        masks = [real(batch), *(kept for cut, kept in zip(cuts, alive, strict=True) if cut <= index)]
        handles.append(layer.register_forward_pre_hook(substitute(four_d(masks[-1])), with_kwargs=True))
    try:
        return model(**batch).logits
    finally:
        for handle in handles:
            handle.remove()
