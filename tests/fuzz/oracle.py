"""Deletion row by row: the modules of an unmodified model, layer by layer, on the tokens that are left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fuzz.decisions import Decisions, Kept
from fuzz.reading import Reading
from fuzz.subjects import Subject
from learnpruner import Plan


@dataclass(frozen=True)
class Outcome:
    """kept: positions that are left at the end; logits: (K, V) there. after: positions left by each stage. lengths: by layer."""

    kept: list[int]
    logits: Tensor
    after: list[list[int]]
    lengths: list[int]


@torch.no_grad()
def delete(on: Subject, reading: Reading, decided: Decisions, plan: Plan) -> Outcome:
    """What a row gives where these tokens are deleted."""
    embeds = reading.embeds.clone()
    every = list(range(len(embeds)))
    after = [[spot for spot in every if spot not in reading.visual] for _ in decided.before]
    for image, spots in enumerate(reading.spots):
        chosen, left = [stage[image] for stage in decided.before], spots
        values, early = _projected(on, reading, image, chosen, plan)
        for number, one in enumerate(chosen):
            values = one.apply(values) if number >= early else values
            left = [left[kept] for kept in one.numbers]
            after[number] += left
        embeds[left] = values
    after = [sorted(positions) for positions in after]
    return _run(on, reading, embeds, decided, after or [every], plan.positions == "compact")


def _projected(on: Subject, reading: Reading, image: int, chosen: list[Kept], plan: Plan) -> tuple[Tensor, int]:
    """An image's tokens as the language model's stages find them, and how many stages have chosen from them by then.

    Where the projector treats each token alone, stages at the encoder merge what it reads; elsewhere, what it gives.
    """
    early = [one for one, stage in zip(chosen, plan.stages, strict=False) if stage.at == "encoder"]
    if not on.family.projector_is_pointwise or not any(one.changes for one in early):
        return reading.embeds[reading.spots[image]], 0
    assert reading.features is not None
    values = reading.features[image]
    for one in early:
        values = one.apply(values)
    return on.projector(values[None])[0], len(early)


def _run(
    on: Subject, reading: Reading, embeds: Tensor, decided: Decisions, after: list[list[int]], compact: bool
) -> Outcome:
    """The language model on embeds (L, D), from what the stages before it left."""
    lm, kept, lengths, inside = on.twin.model.language_model, after[-1], [], list(decided.inside)
    after = after[: len(decided.before)]
    x, positions = embeds[kept][None], torch.arange(len(kept))[None] if compact else reading.positions[..., kept]
    for number, layer in enumerate(lm.layers):
        while inside and inside[0][0] == number:
            chosen = inside.pop(0)[1]
            candidates = [place for place, spot in enumerate(kept) if spot in reading.visual]
            places = [candidates[one] for one in chosen.numbers]
            x = x.index_copy(1, torch.tensor(places, dtype=torch.long), chosen.apply(x[0, candidates])[None])
            stay = sorted({*range(len(kept))} - {*candidates} | {*places})
            x, kept = x[:, stay], [kept[place] for place in stay]
            positions = torch.arange(len(kept))[None] if compact else positions[..., stay]
            after.append(kept)
        causal = torch.full((len(kept), len(kept)), torch.finfo(x.dtype).min).triu(1)[None, None]
        x = layer(x, attention_mask=causal, position_embeddings=lm.rotary_emb(x, positions))
        if number < len(reading.deep):
            x = x + reading.deep[number][kept]
        lengths.append(len(kept))
    return Outcome(kept, on.twin.lm_head(lm.norm(x))[0], after, lengths)
