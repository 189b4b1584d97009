"""Exported plans that are damaged, malformed or hostile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bad.case import Case, Outcome, Play, Stage, refused
from bad.commands import ASK, TRAIN
from bad.world import edit_json

ASKED = [*ASK, "plan=own", "image=picture.png", "question=what color is it"]


def stage(**given: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["stages"][0].update(given)


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    """A field left out; of the first stage where two keys are given."""

    def change(config: dict[str, Any]) -> None:
        inner = config["stages"][0] if len(keys) > 1 else config
        inner.pop(keys[-1])

    return change


def field(**given: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config.update(given)


def pruner(**given: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["stages"][0]["pruner"].update(given)


CONFIGS = {  # what config.json is like: change, words
    "without at": (without("stages", "at"), "at"),
    "without pruner": (without("stages", "pruner"), "pruner"),
    "without prune_ratio": (without("prune_ratio"), "prune_ratio"),
    "without stages": (without("stages"), "stages"),
    "stages of no list": (field(stages="encoder"), "stages"),
    "stages of null": (field(stages=[None]), "config.json"),
    "stages of numbers": (field(stages=[1, 2]), "config.json"),
    "at of no layer": (lambda config: config["stages"][1].update(at=99), "at"),
    "at below 0": (lambda config: config["stages"][1].update(at=-1), "at"),
    "at of a word": (stage(at="banana"), "at"),
    "at of 1/0": (stage(at="1/0"), "at"),
    "at of a list": (stage(at=[1]), "at"),
    "at of null": (stage(at=None), "at"),
    "share of 0": (stage(share=0), "share"),
    "share below 0": (stage(share=-3), "share"),
    "share of a word": (stage(share="much"), "share"),
    "share of nan": (stage(share=float("nan")), "share"),
    "prune_ratio of 0": (field(prune_ratio=0), "prune_ratio"),
    "prune_ratio of 7": (field(prune_ratio=7), "prune_ratio"),
    "prune_ratio of a word": (field(prune_ratio="banana"), "prune_ratio"),
    "prune_ratio of nan": (field(prune_ratio=float("nan")), "prune_ratio"),
    "prune_ratio of a list": (field(prune_ratio=[0.2]), "prune_ratio"),
    "prune_ratio of true": (field(prune_ratio=True), "prune_ratio"),
    "positions of a word": (field(positions="banana"), "positions"),
    "image_aspect of a word": (field(image_aspect="banana"), "image_aspect"),
    "format of the future": (field(format=99), "format"),
    "pruner of os.system": (pruner(_target_="os.system"), "os.system"),
    "pruner of another package": (pruner(_target_="evil.Pruner"), "evil.Pruner"),
    "pruner that is none": (pruner(_target_="learnpruner.pruners.random.torch"), "learnpruner.pruners.random.torch"),
    "pruner without a name": (lambda config: config["stages"][0]["pruner"].pop("_target_"), "_target_"),
    "pruner of a list": (stage(pruner=[1]), "pruner"),
    "pruner with an unknown argument": (pruner(banana=1), "banana"),
    "pruner with an object to build": (pruner(width={"_target_": "os.system"}), "an object to build"),
    "pruner of width of a word": (pruner(width="wide"), "width"),
    "pruner of width 0": (pruner(width=0), "own"),
    "adapter of a word": (field(adapt="banana"), "adapt"),
    "adapter of a list": (field(adapt=[1]), "adapt"),
    "adapter of os.system": (field(adapt={"_target_": "os.system"}), "adapt"),
}
TEXTS = {  # bytes of config.json
    "empty": b"",
    "cut short": b'{"stages": [',
    "a list": b"[]",
    "null": b"null",
    "no UTF-8": b'{"stages": ["\xff\xfe"]}',
    "nested 10,000 deep": b'{"stages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "a picture": b"\x89PNG\r\n\x1a\n",
}


def nan(weights: dict[str, torch.Tensor]) -> None:
    next(iter(weights.values())).view(-1)[0] = float("nan")


def infinite(weights: dict[str, torch.Tensor]) -> None:
    next(iter(weights.values())).view(-1)[0] = float("inf")


def lost(weights: dict[str, torch.Tensor]) -> None:
    weights.pop(next(iter(weights)))


def beside(weights: dict[str, torch.Tensor]) -> None:
    weights["banana"] = torch.ones(2)


def reshaped(weights: dict[str, torch.Tensor]) -> None:
    name = next(name for name, one in weights.items() if one.ndim == 2)
    weights[name] = weights[name][:-1].contiguous()


WEIGHTS = {
    "nan": nan,
    "an infinite value": infinite,
    "one missing": lost,
    "one too many": beside,
    "one of another shape": reshaped,
}
FILES = {  # what becomes of model.safetensors
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a pickle": lambda path: torch.save({"a": torch.ones(1)}, path),
    "a header of 2^60 bytes": lambda path: path.write_bytes((2**60).to_bytes(8, "little") + b"{}"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


def cases() -> Iterator[Case]:
    for name, (change, words) in CONFIGS.items():
        yield Case("export", f"config.json {name}", damaged(of_config(change), words), short=name == "without at")
    for name, content in TEXTS.items():
        yield Case("export", f"config.json is {name}", damaged(of_text(content), "config.json"))
    for name, change in WEIGHTS.items():
        yield Case("export", f"weights with {name}", damaged(of_weights(change), ""), short=name == "nan")
    for name, break_ in FILES.items():
        yield Case("export", f"model.safetensors is {name}", damaged(of_file(break_), "model.safetensors"))
    yield Case("export", "train.py from a damaged one", from_damaged)


def damaged(change: Callable[[Path], Any], words: str) -> Play:
    """A copy of the export, changed and asked a question."""

    def play(stage: Stage) -> Outcome:
        change(stage.copy("export"))
        return refused(stage, "eval.py", *ASKED, words=[words])

    return play


def of_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        def apply(held: dict[str, Any]) -> None:
            change(held)

        edit_json(folder / "config.json", apply)

    return edit


def of_text(content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / "config.json").write_bytes(content)


def of_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return edit


def of_file(change: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: change(folder / "model.safetensors")


def from_damaged(stage: Stage) -> Outcome:
    own = stage.copy("export")
    held = json.loads((own / "config.json").read_text())
    held["stages"][0]["share"] = "much"
    (own / "config.json").write_text(json.dumps(held))
    return refused(stage, "train.py", *TRAIN, "plan=own", words=["share"])
