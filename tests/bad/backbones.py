"""Folders of backbones that are damaged, malformed or hostile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bad.case import Case, Outcome, Play, Stage, refused
from bad.commands import ASK
from bad.world import edit_json

ASKED = ["plan=export", "image=picture.png", "question=what color is it"]
EVIL = "from pathlib import Path\nPath(__file__).parent.parent.joinpath('ran').touch()\nclass Evil: ...\n"
CLASSES = ["AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "AutoImageProcessor"]


def lacking(part: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if part in name]:
            del weights[name]

    return change


def reshaped(weights: dict[str, torch.Tensor]) -> None:
    name = next(name for name in weights if name.endswith("linear_1.weight"))
    weights[name] = weights[name][:-1].contiguous()


WEIGHTS = {  # change, words
    "lack a layer": (lacking("model.layers.2."), "lack"),
    "lack the projector": (lacking("multi_modal_projector"), "lack"),
    "lack the vision tower": (lacking("vision_tower"), "lack"),
    "lack the head": (lacking("lm_head"), "lack"),
    "have one of another shape": (reshaped, "in another shape"),
    "have one too many": (
        lambda weights: weights.update({"model.language_model.layers.99.x": torch.ones(2)}),
        "beside",
    ),
}
FILES = {  # file, what becomes of it, words
    "no weights": ("model.safetensors", lambda path: path.unlink(), "safetensors"),
    "empty weights": ("model.safetensors", lambda path: path.write_bytes(b""), "own"),
    "weights cut short": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1000]), "own"),
    "weights of a page of HTML": ("model.safetensors", lambda path: path.write_bytes(b"<html>" * 999), "own"),
    "weights that are a pointer of Git LFS": (
        "model.safetensors",
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n"),
        "own",
    ),
    "no config": ("config.json", lambda path: path.unlink(), "own"),
    "an empty config": ("config.json", lambda path: path.write_text(""), "own"),
    "a config of a list": ("config.json", lambda path: path.write_text("[]"), "own"),
    "a config that is no UTF-8": ("config.json", lambda path: path.write_bytes(b"\xff\xfe{}"), "own"),
    "no tokenizer": ("tokenizer.json", lambda path: path.unlink(), "own"),
    "a broken tokenizer": ("tokenizer.json", lambda path: path.write_text("{"), "own"),
    "no chat template": ("chat_template.jinja", lambda path: path.unlink(), "own"),
    "a broken chat template": ("chat_template.jinja", lambda path: path.write_text("{% for %}"), "own"),
    "no processor": ("processor_config.json", lambda path: path.unlink(), "own"),
}
CONFIGS = {
    "model_type of a word": ({"model_type": "banana"}, "banana"),
    "model_type of another family": ({"model_type": "bert"}, "bert"),
    "vision_feature_layer of 99": ({"vision_feature_layer": 99}, "vision_feature_layer=99"),
    "text_config of a word": ({"text_config": "banana"}, "own"),
}


def cases() -> Iterator[Case]:
    for name, (change, words) in WEIGHTS.items():
        yield Case("backbone", f"weights {name}", damaged(of_weights(change), words), short=name == "lack a layer")
    for name, (file, change, words) in FILES.items():
        yield Case("backbone", name, damaged(of_file(file, change), words))
    for name, (fields, words) in CONFIGS.items():
        yield Case("backbone", name, damaged(of_config(fields), words))
    yield Case("backbone", "pickled weights", damaged(pickled, "safetensors"))
    yield Case("backbone", "a file in place of a folder", lambda stage: ask(stage, "picture.png", "picture.png"))
    yield Case("backbone", "an export in place of a backbone", lambda stage: ask(stage, "export", "export"))
    yield Case("backbone", "code of its own (auto_map)", hostile)
    yield Case("backbone", "a model_type that brings its code", lambda stage: hostile(stage, model_type="evil"))


def ask(stage: Stage, folder: str, words: str) -> Outcome:
    return refused(stage, "eval.py", *ASK, *ASKED, f"backbone.path={folder}", words=[words])


def damaged(change: Callable[[Path], Any], words: str) -> Play:
    def play(stage: Stage) -> Outcome:
        change(stage.copy("tiny"))
        return ask(stage, "own", words)

    return play


def of_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def of_file(name: str, change: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: change(folder / name)


def of_config(fields: dict[str, Any]) -> Callable[[Path], Any]:
    return lambda folder: edit_json(folder / "config.json", lambda held: {**held, **fields})


def pickled(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def hostile(stage: Stage, **fields: str) -> Outcome:
    """Code in the folder is never run: the model loads without it, or is refused."""
    own = stage.copy("tiny")
    (own / "evil.py").write_text(EVIL)
    mapped = dict.fromkeys(CLASSES, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", None]}
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        held = json.loads((own / name).read_text())
        (own / name).write_text(json.dumps({**held, **(fields if name == "config.json" else {}), "auto_map": mapped}))
    if fields:
        outcome = ask(stage, "own", "code of its own")
    else:
        ended = stage.run("eval.py", *ASK, *ASKED, "backbone.path=own")
        outcome = Outcome(ended.code, "", () if ended.code == 0 else (f"exit code {ended.code}, not 0",))
    ran = (stage.folder / "ran").exists()
    return Outcome(outcome.code, outcome.sentence, (*outcome.wrong, *["its code ran"] * ran))
