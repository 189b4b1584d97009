"""What all cases find in their folder: a tiny backbone, an export, a finished run, pictures, records. Made once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bad.commands import ASK, TRAIN
from bad.process import Running, begin
from learnpruner.backbones import load_backbone
from learnpruner.data.scenes import write_folder
from learnpruner.plan.build import build_baselines
from learnpruner.plan.pruner_configs import PrunerConfigs
from tests.tiny_folder import tiny_folder

CONF = Path(__file__).parents[2] / "conf"


@dataclass(frozen=True)
class World:
    """folder: never changed by any case; answer: to QUESTION about picture.png."""

    folder: Path
    shown: tuple[tuple[int, ...], bytes]


def picture() -> Image.Image:
    """Three stripes of colour and a ramp, not square, unlike itself in any mirror."""
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:20, :, 0], pixels[20:40, :45, 1], pixels[40:, 45:, 2] = 255, 255, 255
    pixels[40:, :45] = np.linspace(0, 255, 45, dtype=np.uint8)[None, :, None]
    return Image.fromarray(pixels)


def build(folder: Path) -> World:
    """Makes the world in an empty folder."""
    world = folder / "world"
    world.mkdir(parents=True)
    tiny_folder(world / "tiny")
    tiny_folder(world / "wide", width=48)
    backbone = load_backbone(str(world / "tiny"))
    for name, source in (("export", backbone), ("wider", load_backbone(str(world / "wide")))):
        plan = build_baselines(PrunerConfigs(), {"own": "learnpruner"}, 0.2, source, seed=3)["own"]
        plan.save(world / name, backbone="tiny")
    picture().save(world / "picture.png")
    grey().save(world / "grey.png")
    write_folder(world / "json", "train", 8, questions=3)
    for steps, name in ((2, "run"), (4, "whole")):
        settings = [f"trainer.max_steps={steps}", "callbacks.checkpoint.every_n_train_steps=1", f"hydra.run.dir={name}"]
        done(begin("train.py", [*TRAIN, *settings], world))
    asked = ["plan=export", "image=picture.png", "question=what color is it", "hydra.run.dir=asked"]
    done(begin("eval.py", [*ASK, *asked], world))
    for path in world.glob(".said*"):
        path.unlink()
    return World(world, pixels(world / "asked/tokens.png"))


def done(running: Running) -> None:
    ended = running.wait(600)
    assert ended.code == 0, ended.err


def grey() -> Image.Image:
    """A ramp of all greys."""
    return Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(4, 0).repeat(4, 1))


def pixels(path: Path) -> tuple[tuple[int, ...], bytes]:
    with Image.open(path) as image:
        return image.size, image.convert("RGB").tobytes()


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below, with its size and the time of its last change; without what Hydra and the log say of each command."""
    found = {}
    for path in sorted(folder.rglob("*")):
        own = path.name.startswith(".said") or path.name == ".lock" or path.suffix == ".log" or ".hydra" in path.parts
        if path.is_file() and not own:
            held = path.stat()
            found[str(path.relative_to(folder))] = (held.st_size, held.st_mtime_ns)
    return found


def edit_json(path: Path, change: object) -> None:
    """Reads a JSON file, changes what it holds by a function, and writes it again."""
    held = json.loads(path.read_text())
    given = change(held)  # type: ignore[operator]
    path.write_text(json.dumps(held if given is None else given))
