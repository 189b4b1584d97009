"""Checkpoints that are damaged, malformed or of another run."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bad.case import Case, Outcome, Play, Stage, refused
from bad.commands import TRAIN

GOES_ON = [*TRAIN, "trainer.max_steps=3", "callbacks.checkpoint.every_n_train_steps=1"]


def first(held: dict[str, Any]) -> dict[str, Any]:
    return held["optimizer_states"][0]["state"][0]


def loop(held: dict[str, Any]) -> dict[str, Any]:
    return held["loops"]["fit_loop"]["state_dict"]


MALFORMED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no loops": lambda held: held.update(loops={}),
    "loops of a list": lambda held: held.update(loops=[]),
    "no optimizer": lambda held: held.update(optimizer_states=[]),
    "no moments": lambda held: held["optimizer_states"][0].update(state={}),
    "moments of another shape": lambda held: first(held).update(exp_avg=torch.zeros(2)),
    "moments of a text": lambda held: first(held).update(exp_avg="none"),
    "moments without a part": lambda held: first(held).pop("exp_avg_sq"),
    "moments of nan": lambda held: first(held)["exp_avg"].fill_(float("nan")),
    "groups of other weights": lambda held: held["optimizer_states"][0]["param_groups"][0].update(params=[0]),
    "no learning rate": lambda held: held.update(lr_schedulers=[]),
    "a learning rate of another step": lambda held: held["lr_schedulers"][0].update(last_epoch=1),
    "a step of a text": lambda held: held.update(global_step="two"),
    "a step below 0": lambda held: held.update(global_step=-2),
    "another step": lambda held: held.update(global_step=1),
    "batches of another step": lambda held: loop(held).update(combined_loader=[{"batches": 1}]),
    "no batches": lambda held: loop(held).update(combined_loader=[]),
    "no weights": lambda held: held.update(state_dict={}),
    "weights of a text": lambda held: held.update(state_dict={"plan": "none"}),
    "weights of nan": lambda held: next(iter(held["state_dict"].values())).fill_(float("nan")),
    "weights that are infinite": lambda held: next(iter(held["state_dict"].values())).fill_(float("inf")),
    "settings of a text": lambda held: held.update(config="none"),
    "a setting of another kind": lambda held: held["config"].update(seed="three"),
    "a class to build of its own": lambda held: held["config"]["optimizer"].update(_target_="os.system"),
}


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


FILES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:2000]),
    "with flipped bytes": lambda path: path.write_bytes(
        path.read_bytes()[:500] + bytes(500) + path.read_bytes()[1000:]
    ),
    "a text": lambda path: path.write_text("not a checkpoint"),
    "an archive of nothing": lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)),
    "a list": lambda path: torch.save([1], path),
    "other weights": lambda path: torch.save({"state_dict": {}}, path),
    "a pickle that runs a program": lambda path: path.write_bytes(pickle.dumps(Payload())),
}
OTHERS = {  # settings that differ from the run's: words
    "prune_ratio=0.3": "prune_ratio=0.2, not 0.3",
    "optimizer.lr=1": "optimizer.lr",
    "optimizer=sgd": "optimizer",
    "seed=3": "seed=0, not 3",
    "data.images_per_batch=2": "data.images_per_batch",
    "trainer.max_steps=2": "trainer.max_steps is 2",
    "trainer.max_steps=1": "trainer.max_steps is 1",
    "pruner=visionselector": "comes from a run with",
    "backbone.path=wide": "another pruner or backbone",
    "trainer.precision=bf16-mixed": "precision",
}
PATHS = {
    "nowhere.ckpt": "is missing",
    "run/checkpoints": "is a folder",
    "run/export/model.safetensors": "plan=",
    "json/train.json": "cannot be read as a checkpoint",
    "/dev/null": "/dev/null",
}


def cases() -> Iterator[Case]:
    for name, change in MALFORMED.items():
        yield Case("checkpoint", f"with {name}", damaged(of_content(change)), short=name == "weights of nan")
    for name, break_ in FILES.items():
        yield Case("checkpoint", f"that is {name}", damaged(break_))
    for setting, words in OTHERS.items():
        yield Case("checkpoint", f"gone on with at {setting}", other(setting, words))
    for path, words in PATHS.items():
        yield Case("checkpoint", f"ckpt_path={path}", at(path, words))
    yield Case("checkpoint", "broken, beside a whole one", beside_a_whole_one)


def damaged(change: Callable[[Path], Any]) -> Play:
    def play(stage: Stage) -> Outcome:
        path = stage.copy("run") / "checkpoints/last.ckpt"
        (path.parent / "step_2.ckpt").unlink()
        change(path)
        outcome = refused(
            stage, "train.py", *GOES_ON, f"ckpt_path=own/checkpoints/{path.name}", words=["ckpt_path=own"]
        )
        ran = (stage.folder / "ran").exists()
        return Outcome(outcome.code, outcome.sentence, (*outcome.wrong, *["its payload ran"] * ran))

    return play


def of_content(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def edit(path: Path) -> None:
        held = torch.load(path, weights_only=True)
        change(held)
        torch.save(held, path)

    return edit


def other(setting: str, words: str) -> Play:
    return lambda stage: refused(
        stage, "train.py", *GOES_ON, "ckpt_path=run/checkpoints/last.ckpt", setting, words=[words]
    )


def at(path: str, words: str) -> Play:
    return lambda stage: refused(stage, "train.py", *GOES_ON, f"ckpt_path={path}", words=[words])


def beside_a_whole_one(stage: Stage) -> Outcome:
    path = stage.copy("run") / "checkpoints/last.ckpt"
    path.write_bytes(b"")
    words = ["step_2.ckpt is whole, after step 2"]
    return refused(stage, "train.py", *GOES_ON, "ckpt_path=own/checkpoints/last.ckpt", words=words)
