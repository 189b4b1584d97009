"""Step 2: the language model learns to answer from textual scenes, where each patch is the sum of the words that it shows.

A sequence holds some patches of each shape and some of the background, at the positions that they have in a whole image; most are short
at first, since a fact is found sooner among few tokens. Facts are looked up, compared and counted here, where a step costs a tenth of one
with images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from learnpruner.data.scenes import QUESTION_KINDS, RIGHT_HALF, Scene, make_scene
from learnpruner.nano.questions import _IGNORED, PROMPT_PREFIX, PackedQuestions, accuracy_by_kind, pack_question_rows
from learnpruner.nano.stage import PretrainStage, StageLogs
from learnpruner.nano.symbols import _NOTHING, SymbolTable, patch_symbols

# how often each kind is asked: what is looked up first, then what is told from what was found
_LOOKUPS = (
    *QUESTION_KINDS,
    *3 * ("attribute",),
    *3 * ("counting",),
    *2 * ("reading",),
    "existence",
    "relation",
    "position",
)
_FINDINGS = (
    *QUESTION_KINDS,
    "attribute",
    "reading",
    *3 * ("counting",),
    *3 * ("existence",),
    *3 * ("relation",),
    *5 * ("position",),
)
_SHORT = (2, 8)  # at most so many patches a shape and background patches in a short sequence
_LONG = (6, 40)
_CUT = 3  # of 8 layers, like 12 of 32: from here on the answer must not need every image token


def sample_patches(scene: Scene, rng: np.random.Generator, copies: int, background: int) -> np.ndarray:
    """Sorted raster numbers: up to ``copies`` patches of each shape and each digit (the mark among them), up to ``background`` free ones of both sides, and half as many of the clutter (none where it is 0)."""
    labels = scene.labels
    chosen: list[np.ndarray] = [np.flatnonzero(labels.mark)[:1]]
    for i, thing in enumerate(scene.things):
        parts = scene.digit_patches(thing) if thing.is_plate else [thing.patches[labels.thing[thing.patches] == i + 1]]
        chosen += [rng.permutation(part)[: rng.integers(1, copies + 1)] for part in parts]
    for side in (~RIGHT_HALF, RIGHT_HALF):
        free = rng.permutation(np.flatnonzero(labels.free & side))
        chosen.append(free[: rng.integers(min(1, background), background // 2 + 1)])
    clutter = rng.permutation(np.flatnonzero((labels.thing == 0) & ~labels.free))
    chosen.append(clutter[: rng.integers(0, background // 2 + 1)])
    return np.unique(np.concatenate(chosen))


def pad_patches(chosen: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Rows of different lengths -> (B, V) patch numbers and which of them are real."""
    width = max(len(row) for row in chosen)
    patches = torch.from_numpy(np.stack([np.pad(row, (0, width - len(row))) for row in chosen]))
    return patches, torch.arange(width) < torch.tensor([len(row) for row in chosen])[:, None]


def packed_answer_loss(logits: Tensor, batch: PackedQuestions) -> Tensor:
    """Cross entropy on the answers of packed questions."""
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=_IGNORED)


def packed_answer_logits(
    model: LlavaForConditionalGeneration, visual: Tensor, batch: PackedQuestions, late: Tensor | None = None
) -> Tensor:
    """``visual`` (B, V, D) takes the places of the image tokens -> logits (B, L, words).

    ``late`` (B, 1, L, L) bool takes the place of the mask in the layers from CUT on.
    """
    language = model.model.language_model
    embeds = language.embed_tokens(batch.input_ids)
    start = len(PROMPT_PREFIX)
    embeds = torch.cat([embeds[:, :start], visual.to(embeds.dtype), embeds[:, start + visual.shape[1] :]], dim=1)

    def mask_late(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": late}

    layers = language.layers[_CUT:] if late is not None else []
    hooks = [layer.register_forward_pre_hook(mask_late, with_kwargs=True) for layer in layers]
    try:
        states = language(
            inputs_embeds=embeds, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    return model.lm_head(states)


def late_dropout_mask(batch: PackedQuestions, rng: np.random.Generator) -> Tensor:
    """The batch's mask without a random share of its image tokens, another share in each row."""
    seen = torch.from_numpy(rng.random(batch.visual.shape) < rng.uniform(0, 0.6, (len(batch.visual), 1)))
    columns = torch.ones(len(seen), batch.mask.shape[-1], dtype=torch.bool)
    columns[:, len(PROMPT_PREFIX) : len(PROMPT_PREFIX) + seen.shape[1]] = seen
    itself = torch.eye(batch.mask.shape[-1], dtype=torch.bool)
    return batch.mask & (columns[:, None, None] | itself).to(batch.mask.device)


def language_stage(
    model: LlavaForConditionalGeneration, table: SymbolTable, steps: int, rate: float = 1e-3
) -> PretrainStage:
    """Pre-train the language model on symbols in place of visual features."""
    language, device = model.model.language_model, model.device
    parameters = [*language.parameters(), *model.lm_head.parameters(), table.roles]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    width = language.config.hidden_size

    def loss(step: int) -> tuple[Tensor, StageLogs]:
        rng = np.random.default_rng([3, step])
        noise = torch.Generator().manual_seed(step)
        size = 32
        numbers = range(step * size, (step + 1) * size)
        kinds = _LOOKUPS if step < steps // 2 else _FINDINGS
        scenes = [make_scene("train", i, seed=1, questions=8, render=False, kinds=kinds) for i in numbers]
        copies, background = _SHORT if rng.random() < (0.8 if step < 0.7 * steps else 0.3) else _LONG
        sizes = [(int(rng.integers(1, copies + 1)), int(rng.integers(2, background + 1))) for _ in scenes]
        patches, valid = pad_patches([sample_patches(s, rng, *size) for s, size in zip(scenes, sizes, strict=True)])
        says = torch.from_numpy(np.stack([patch_symbols(scene) for scene in scenes]))
        says = says.gather(1, patches[..., None].expand(-1, -1, says.shape[-1])).masked_fill(
            ~valid[..., None], _NOTHING
        )
        visual = table(says.to(device))
        visual = visual + 0.3 / width**0.5 * torch.randn(visual.shape, generator=noise).to(device)
        batch = pack_question_rows([scene.questions for scene in scenes], patches, valid, device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = packed_answer_logits(model, visual, batch)
        return packed_answer_loss(logits, batch), accuracy_by_kind(logits, batch)

    modules = {"language": language, "head": model.lm_head, "table": table}
    return PretrainStage("language", steps, modules, [optimizer], loss, decay=0.3)
