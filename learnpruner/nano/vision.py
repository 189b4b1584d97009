"""Step 1: the vision tower learns to see by dense labels, a linear head naming what every patch shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from learnpruner.data.scenes import (
    COLOR_NAMES,
    COLUMN_NAMES,
    GRID,
    RIGHT_HALF,
    ROW_NAMES,
    SHAPES,
    TEXTURES,
    Scene,
    make_scene,
)
from learnpruner.nano.model import normalise_pixels
from learnpruner.nano.stage import PretrainStage, StageLogs

# name -> number of classes; each is asked on the patches of things only, but for "background", which is asked on free patches
READING_CLASSES = {
    "color": len(COLOR_NAMES),
    "shape": len(SHAPES),
    "digit": 10,
    "role": 3,
    "row": len(ROW_NAMES),
    "column": len(COLUMN_NAMES),
    "background": len(TEXTURES),
}
WINDOW_SIDE = GRID // 2


class DensePatchHead(nn.Module):
    """A linear reading of each patch; ``gist`` reads [CLS] after the last layer: background and main subject, as a caption would tell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, 2 + sum(READING_CLASSES.values()))
        self.gist = nn.Linear(width, len(COLOR_NAMES) + len(SHAPES) + len(TEXTURES))


def dense_patch_targets(scenes: list[Scene], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Each (B, 576): "thing" and "mark" 0 or 1, the other names as class numbers."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("thing", "mark", *READING_CLASSES)}
    for scene in scenes:
        thing, second = scene.labels.thing, scene.labels.second
        digits = [t.number.split() for t in scene.things]
        tables = {
            "color": [COLOR_NAMES.index(t.color) for t in scene.things],
            "shape": [SHAPES.index(t.shape) for t in scene.things],
            "row": [ROW_NAMES.index(t.row) for t in scene.things],
            "column": [COLUMN_NAMES.index(t.column) for t in scene.things],
        }
        for name, values in tables.items():
            rows[name].append(np.array([0, *values])[thing])
        number = np.array([[0, 0], *([int(d[0]), int(d[-1])] for d in digits)])
        role = np.array([[0, 0], *([0, 0] if len(d) == 1 else [1, 2] for d in digits)])
        rows["digit"].append(number[thing, second])
        rows["role"].append(role[thing, second])
        left_texture, right_texture = (TEXTURES.index(t) for t in scene.background)
        rows["background"].append(np.where(RIGHT_HALF, right_texture, left_texture))
        rows["thing"].append(thing > 0)
        rows["mark"].append(scene.labels.mark)
    return {name: torch.from_numpy(np.stack(values).astype(np.int64)).to(device) for name, values in rows.items()}


def dense_loss(outputs: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, StageLogs]:
    """``outputs`` (B, 576, 2 + classes) -> the summed losses and the accuracy of each reading."""
    thing, mark, *parts = outputs.split([1, 1, *READING_CLASSES.values()], dim=-1)
    on = targets["thing"].bool()
    loss = F.binary_cross_entropy_with_logits(thing[..., 0], on.float())
    loss = loss + F.binary_cross_entropy_with_logits(mark[..., 0][on], targets["mark"][on].float())
    logs = {"thing": ((thing[..., 0] > 0) == on).float().mean().item()}
    for (name, _), part in zip(READING_CLASSES.items(), parts, strict=True):
        where, weight = (~on, 0.3) if name == "background" else (on, 1.0)
        loss = loss + weight * F.cross_entropy(part[where], targets[name][where])
        logs[name] = (part[where].argmax(-1) == targets[name][where]).float().mean().item()
    return loss, logs


def summary_loss(outputs: Tensor, scenes: list[Scene]) -> Tensor:
    """[CLS] names the largest shape's colour and outline and the left texture: a caption tells the main subject, not every detail."""
    color, shape, texture = outputs.split([len(COLOR_NAMES), len(SHAPES), len(TEXTURES)], dim=-1)
    main = [max(scene.things, key=lambda t: t.box[2]) for scene in scenes]
    named = (
        (color, [COLOR_NAMES.index(t.color) for t in main]),
        (shape, [SHAPES.index(t.shape) for t in main]),
        (texture, [TEXTURES.index(scene.background[0]) for scene in scenes]),
    )
    return sum(
        (F.cross_entropy(part, torch.tensor(label, device=part.device)) for part, label in named),
        start=torch.zeros((), device=outputs.device),
    )


def tower_states(tower: Any, pixels: Tensor, windows: bool) -> Tensor:
    """States after the penultimate layer, [CLS] first: (B, 577, D), or (4 B, 145, D) where the image is read in four windows (1.5 x faster)."""
    states = tower.pre_layrnorm(tower.embeddings(pixels))
    if windows:
        states = torch.cat([states[:, :1].repeat_interleave(4, 0), to_windows(states[:, 1:])], dim=1)
    for layer in tower.encoder.layers[:-1]:
        states = layer(states, attention_mask=None)
    return states


def to_windows(x: Tensor) -> Tensor:
    """(B, 576, ...) -> (4 B, 144, ...): the four quadrants as images of their own."""
    rest = x.shape[2:]
    x = x.view(-1, 2, WINDOW_SIDE, 2, WINDOW_SIDE, *rest).transpose(2, 3)
    return x.reshape(-1, WINDOW_SIDE * WINDOW_SIDE, *rest)


def load_scenes(
    step: int, batch: int, device: torch.device | str = "cpu", crowded: bool = False
) -> tuple[list[Scene], Tensor]:
    """Scenes number step * batch and on, of the training split, and their pixels (B, 3, 192, 192)."""
    scenes = [make_scene("train", step * batch + i, questions=0, crowded=crowded) for i in range(batch)]
    return scenes, normalise_pixels(
        torch.from_numpy(np.stack([s.image for s in scenes if s.image is not None])).to(device)
    )


def vision_stages(model: LlavaForConditionalGeneration, window_steps: int, full_steps: int) -> list[PretrainStage]:
    """First crowded scenes in windows (most labels a second), then whole scenes as the benchmark shows them, with the [CLS] reading."""
    tower, device = model.model.vision_tower, model.device
    head = DensePatchHead(tower.config.hidden_size).to(device)

    def optimizers(scale: float) -> list[torch.optim.Optimizer]:
        named = list(tower.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and "embedding" not in name]
        rest = [p for name, p in named if p.ndim != 2 or "embedding" in name]
        return [
            torch.optim.Muon(matrices, lr=0.02 * scale, weight_decay=0.01),
            torch.optim.AdamW([*rest, *head.parameters()], lr=2e-3 * scale, weight_decay=0.0, betas=(0.9, 0.95)),
        ]

    def windows(step: int) -> tuple[Tensor, StageLogs]:
        scenes, pixels = load_scenes(step, 16, device, crowded=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            states = tower_states(tower, pixels, windows=True)
        targets = {name: to_windows(values) for name, values in dense_patch_targets(scenes, device).items()}
        loss, logs = dense_loss(head.patch(states[:, 1:].float()), targets)
        return loss, logs

    def whole(step: int) -> tuple[Tensor, StageLogs]:
        scenes, pixels = load_scenes(step, 12, device, crowded=step % 2 == 0)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            states = tower_states(tower, pixels, windows=False)
            last = tower.encoder.layers[-1](states, attention_mask=None)
        loss, logs = dense_loss(head.patch(states[:, 1:].float()), dense_patch_targets(scenes, device))
        gist = summary_loss(head.gist(tower.post_layernorm(last[:, 0].float())), scenes)
        return loss + 0.1 * gist, {**logs, "gist": gist.item()}

    modules = {"tower": tower, "head": head}
    return [
        PretrainStage("vision-windows", window_steps, modules, optimizers(1.0), windows, decay=0.3),
        PretrainStage("vision-whole", full_steps, modules, optimizers(0.4), whole, warmup=20, decay=0.7),
    ]
