"""What a case asks of a model that carries its plan: a forward pass, further turns on its cache, `generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fuzz.case import Case
from learnpruner.engine.prefill_trace import PrefillTrace

NEW = 3  # tokens that follow a prompt
Batch = dict[str, Any]


@dataclass(frozen=True)
class Ran:
    """logits: (B, L, V) of the prompt, of `generate` its last position alone. lengths: of the cache, by layer.

    new: (B, q) what followed; following: its logits; said: (B, q) which of it is no padding. record: None without pictures.
    """

    logits: Tensor
    record: PrefillTrace | None
    loss: Tensor | None = None
    lengths: list[int] | None = None
    new: Tensor | None = None
    following: Tensor | None = None
    said: Tensor | None = None


def real(batch: Batch) -> Tensor:
    """Positions that are no padding: (B, L)."""
    return batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()


def batch(case: Case, only: int | None = None) -> Batch:
    """The inputs of the whole call, or of a row alone, with the case's labels."""
    made = case.batch(only)
    if case.answers == "none":
        return made
    labels = torch.full_like(made["input_ids"], -100)
    for place, row in enumerate(range(len(case.rows)) if only is None else [only]):
        there = real(made)[place]
        labels[place, there] = case.labels(made["input_ids"][place, there], row)
    return {**made, "labels": labels}


@torch.no_grad()
def forward(case: Case, inputs: Batch, mode: Any = "physical", pool: int | None = None, model: Any = None) -> Ran:
    model = case.on.model if model is None else model
    with case.plan.on(model, mode, pool) as engine:
        out = model(**inputs)
    return Ran(out.logits, engine.record, out.loss, _lengths(out.past_key_values))


@torch.no_grad()
def turns(case: Case) -> Ran:
    """The prompt, and two turns of words on its cache, the first of them padded where rows say less."""
    model, first = case.on.model, case.batch()
    new = case.on.words[torch.arange(len(case.rows) * 2 * NEW).view(-1, 2 * NEW) % len(case.on.words)]
    said = torch.ones_like(new)
    if "attention_mask" in first:
        said[:, :NEW] = torch.arange(NEW) <= (torch.arange(len(new))[:, None] + case.number) % NEW
    mask = torch.cat([real(first).long(), said], 1)
    with case.plan.on(model) as engine:
        out = model(**first, use_cache=True)
        past = real(first).sum(1, keepdim=True) if case.on.family.rotary_axes > 1 else first["input_ids"].shape[1]
        positions = past + said.cumsum(1) - 1
        if case.on.family.rotary_axes > 1:  # as `generate` counts on
            positions = (positions + model.model.rope_deltas).expand(3, -1, -1)
        later = []
        for start in (0, NEW):
            columns = slice(start, start + NEW)
            more = {"input_ids": new[:, columns], "position_ids": positions[..., columns]}
            if "attention_mask" in first:
                more["attention_mask"] = mask[:, : first["input_ids"].shape[1] + start + NEW]
            later.append(model(**more, past_key_values=out.past_key_values).logits)
    return Ran(out.logits, engine.record, None, _lengths(out.past_key_values), new, torch.cat(later, 1), said.bool())


@torch.no_grad()
def generate(case: Case) -> Ran:
    """All tokens but the last are what followed: they passed through the model."""
    options = {"max_new_tokens": NEW + 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with case.plan.on(case.on.model) as engine:
        out = case.on.model.generate(**case.batch(), **options)
    logits = torch.stack(out.logits, 1)
    new = out.sequences[:, -NEW - 1 : -1]
    said = torch.ones_like(new, dtype=torch.bool)
    return Ran(logits[:, :1], engine.record, None, _lengths(out.past_key_values), new, logits[:, 1:], said)


def _lengths(cache: Any) -> list[int] | None:
    return None if cache is None else [int(layer.get_seq_length()) for layer in cache.layers]
