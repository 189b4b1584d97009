"""Steps 3 to 5: the projector learns to say patches in words; then projector and language model learn to answer about images, the last stretch mostly from few patches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from learnpruner.data.scenes import GRID, QUESTION_KINDS, Scene, make_scene
from learnpruner.nano.language import (
    late_dropout_mask,
    packed_answer_logits,
    packed_answer_loss,
    pad_patches,
    sample_patches,
)
from learnpruner.nano.model import normalise_pixels
from learnpruner.nano.questions import accuracy_by_kind, pack_question_rows
from learnpruner.nano.stage import PretrainStage, StageLogs
from learnpruner.nano.symbols import SymbolTable, patch_symbols
from learnpruner.nano.vision import load_scenes, tower_states

# how often each kind is asked: what rests on several things is slow to learn
_ASKED = (*QUESTION_KINDS, *4 * ("counting",), *3 * ("relation",), "reading", "position")


@torch.no_grad()
def patch_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """(B, 3, 192, 192) -> (B, 576, D): what LLaVA's projector reads."""
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        return tower_states(model.model.vision_tower, pixels, windows=False)[:, 1:].float()


@torch.no_grad()
def scale_to_features(model: LlavaForConditionalGeneration) -> None:
    """Divides the projector's first weights by each channel's root mean square, which differ fivefold; without this the alignment stalls."""
    _, pixels = load_scenes(0, 16, model.device)
    rms = patch_features(model, pixels).pow(2).mean((0, 1)).sqrt()
    projector = model.model.multi_modal_projector
    projector.linear_1.weight.div_(rms)
    projector.linear_2.weight.mul_(0.1)


def alignment_stage(model: LlavaForConditionalGeneration, table: SymbolTable, steps: int) -> PretrainStage:
    """Each patch is to become the sum of the words that it shows; tower and words stay."""
    projector = model.model.multi_modal_projector
    optimizer = torch.optim.AdamW(projector.parameters(), lr=4e-3)

    def loss(step: int) -> tuple[Tensor, StageLogs]:
        scenes, pixels = load_scenes(step, 32, model.device)
        says = torch.from_numpy(np.stack([patch_symbols(scene) for scene in scenes]))
        with torch.no_grad():
            target = table(says.to(model.device))
        return F.mse_loss(projector(patch_features(model, pixels)), target) / target.pow(2).mean(), {}

    return PretrainStage("alignment", steps, {"projector": projector}, [optimizer], loss, warmup=10, decay=0.9)


def tuning_stage(
    model: LlavaForConditionalGeneration,
    steps: int,
    name: str = "tuning",
    rate: float = 7e-4,
    full_share: float = 0.4,
    late_share: float = 0.7,
    bare_share: float = 0.0,
    seed: int = 2,
) -> PretrainStage:
    """Question answering on images with the tower frozen.

    A share ``full_share`` of the steps reads all 576 patches; the others read a sample of some patches of each shape and some of the
    background, which is several times faster and teaches the same facts. A share ``late_share`` of those hides most image tokens from the
    layers after the cut, as large language models are known to need few of them there; a share ``bare_share`` shows no background at all.
    """
    modules: dict[str, nn.Module] = {
        "projector": model.model.multi_modal_projector,
        "language": model.model.language_model,
        "head": model.lm_head,
    }
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.98))

    def loss(step: int) -> tuple[Tensor, StageLogs]:
        rng = np.random.default_rng([2 + seed, step])
        full = bool(rng.random() < full_share)
        size = 8 if full else 16
        scenes = [make_scene("train", step * 16 + i, seed=seed, questions=8, kinds=_ASKED) for i in range(size)]
        pixels = normalise_pixels(
            torch.from_numpy(np.stack([s.image for s in scenes if s.image is not None])).to(model.device)
        )
        patches, valid = _patches(scenes, rng, full, bare_share)
        batch = pack_question_rows([scene.questions for scene in scenes], patches, valid, model.device)
        features = patch_features(model, pixels)
        features = features.gather(1, batch.visual[..., None].expand(-1, -1, features.shape[-1]))
        late = late_dropout_mask(batch, rng) if not full and rng.random() < late_share else None
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            logits = packed_answer_logits(model, model.model.multi_modal_projector(features), batch, late)
        return packed_answer_loss(logits, batch), {"full": float(full), **accuracy_by_kind(logits, batch)}

    return PretrainStage(name, steps, modules, [optimizer], loss, decay=0.5)


def _patches(
    scenes: list[Scene], rng: np.random.Generator, full: bool, bare_share: float
) -> tuple[Tensor, Tensor | None]:
    if full:
        return torch.arange(GRID * GRID).expand(len(scenes), -1), None
    copies, background = int(rng.choice([2, 4, 8])), int(rng.integers(2, 60))
    if rng.random() < bare_share:
        background = 0
    return pad_patches([sample_patches(scene, rng, copies, background) for scene in scenes])
