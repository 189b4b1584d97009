"""What a machine takes away while a program runs: disk, folders, memory; and values that are not finite."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bad.case import Case, Outcome, Play, Stage, faults_of, told
from bad.commands import EVAL, TRAIN
from bad.kills import FOUR, same, torn
from bad.moments import Action, at_answer, at_export, at_step

SIZE = "4m"  # of the small disk


def cases() -> Iterator[Case]:
    yield Case("full disk", "in a training step", small_disk(lambda: at_step(2, fill), goes_on=True), fault=True)
    yield Case("full disk", "before the export", small_disk(lambda: at_export(fill)), fault=True)
    yield Case("full disk", "in an evaluation", small_disk_in_an_evaluation, fault=True)
    yield Case("full disk", "files may not grow (RLIMIT_FSIZE)", no_growth, fault=True)
    yield Case("vanished folder", "of the run, in a training step", vanished_run, fault=True)
    yield Case("vanished folder", "of the run, before the export", vanished_before_export, fault=True)
    yield Case("vanished folder", "of the run, in an evaluation", vanished_in_an_evaluation, fault=True)
    yield Case("vanished folder", "of the pictures, in a training step", vanished_pictures, fault=True)
    yield Case("vanished folder", "of the backbone, behind its loading", vanished_backbone, fault=True)
    yield Case(
        "no memory",
        "for a tensor of a training step",
        no_memory("train.py", FOUR, at_step, tensor),
        fault=True,
        short=True,
    )
    yield Case(
        "no memory", "for an object of a training step", no_memory("train.py", FOUR, at_step, objects), fault=True
    )
    yield Case(
        "no memory",
        "for a tensor of an evaluation",
        no_memory("eval.py", [*EVAL, "plan=export"], at_answer, tensor),
        fault=True,
    )
    yield Case("nan", "in the loss, once", nan_once, fault=True)
    yield Case("nan", "in the loss, from then on", nan_from_then_on, fault=True)
    yield Case("nan", "by a learning rate of 1e38", divergent, fault=True)
    yield Case("nan", "in the weights, before a checkpoint", nan_weights, fault=True)
    yield Case("nan", "in the weights, before the export", nan_export, fault=True)


def fill() -> None:
    """The disk of the working folder's `small`, to its last byte."""
    with (Path("small") / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def mounted(stage: Stage) -> bool:
    """A disk of SIZE as `small`; it takes root."""
    (stage.folder / "small").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(stage.folder / "small")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def unmount(stage: Stage) -> None:
    subprocess.run(["umount", "-l", str(stage.folder / "small")], capture_output=True, check=False)


def on_small_disk(play: Play) -> Play:
    """Without the right to mount one, files that may not grow stand for it."""

    def played(stage: Stage) -> Outcome:
        if not mounted(stage):
            return no_growth(stage)
        try:
            return play(stage)
        finally:
            unmount(stage)

    return played


def small_disk(fault: Callable[[], Action], goes_on: bool = False) -> Play:
    def play(stage: Stage) -> Outcome:
        ended = stage.run("train.py", *FOUR, "hydra.run.dir=small/out", before=fault())
        folder = stage.folder / "small/out"
        wrong = [*faults_of(ended, ["small/out", "No space left"]), *torn(folder)]
        (stage.folder / "small/filler").unlink()
        if goes_on:
            again = stage.run("train.py", f"ckpt_path={folder}/checkpoints/last.ckpt", f"hydra.run.dir={folder}")
            wrong += (
                same(folder, stage.world.folder / "whole") if again.code == 0 else [f"it did not go on ({told(again)})"]
            )
        return Outcome(ended.code, told(ended), tuple(wrong))

    return on_small_disk(play)


def in_an_evaluation(stage: Stage) -> Outcome:
    ended = stage.run("eval.py", *EVAL, "plan=export", "hydra.run.dir=small/out", before=at_answer(1, fill))
    results = stage.folder / "small/out/results.json"
    wrong = [*faults_of(ended, ["small/out", "No space left"]), *["results.json is torn"] * results.exists()]
    return Outcome(ended.code, told(ended), tuple(wrong))


small_disk_in_an_evaluation = on_small_disk(in_an_evaluation)


def no_growth(stage: Stage) -> Outcome:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))

    ended = stage.run("train.py", *FOUR, before=at_step(2, limit))
    wrong = [*faults_of(ended, ["out/"]), *torn(stage.folder / "out")]
    again = stage.run("train.py", "ckpt_path=out/checkpoints/last.ckpt", "hydra.run.dir=out")
    wrong += (
        same(stage.folder / "out", stage.world.folder / "whole")
        if again.code == 0
        else [f"it did not go on ({told(again)})"]
    )
    return Outcome(ended.code, told(ended), tuple(wrong))


def vanished(folder: str) -> Action:
    return lambda: shutil.rmtree(folder)


def vanished_run(stage: Stage) -> Outcome:
    """One sentence that names the folder, which is not made again."""
    ended = stage.run("train.py", *FOUR, before=at_step(2, vanished("out")))
    wrong = [*faults_of(ended, ["out"]), *["the folder was made again"] * (stage.folder / "out/export").exists()]
    return Outcome(ended.code, told(ended), tuple(wrong))


def vanished_before_export(stage: Stage) -> Outcome:
    """The weights are in memory alone: they are saved after all, or it is said that they are lost."""
    ended = stage.run("train.py", *FOUR, before=at_export(vanished("out")))
    if ended.code == 0:
        return Outcome(
            0, told(ended), () if (stage.folder / "out/export/model.safetensors").is_file() else ("no export",)
        )
    return Outcome(ended.code, told(ended), tuple(faults_of(ended, ["out"])))


def vanished_in_an_evaluation(stage: Stage) -> Outcome:
    ended = stage.run("eval.py", *EVAL, "plan=export", before=at_answer(1, vanished("out")))
    if ended.code == 0:
        return Outcome(0, told(ended), () if (stage.folder / "out/results.json").is_file() else ("no results",))
    return Outcome(ended.code, told(ended), tuple(faults_of(ended, ["out"])))


def vanished_pictures(stage: Stage) -> Outcome:
    """The last whole step is kept."""
    stage.copy("json")
    settings = [*FOUR, "data=llava_json", "data.json=own/train.json", "data.images_per_batch=1"]
    ended = stage.run("train.py", *settings, before=at_step(1, vanished("own/images")))
    wrong = [*faults_of(ended, ["own"]), *torn(stage.folder / "out")]
    wrong += [] if (stage.folder / "out/checkpoints/last.ckpt").is_file() else ["no checkpoint was kept"]
    return Outcome(ended.code, told(ended), tuple(wrong))


def vanished_backbone(stage: Stage) -> Outcome:
    """It is in memory: the run ends as the whole one."""
    stage.copy("tiny")
    ended = stage.run("train.py", *FOUR, "backbone.path=own", before=at_step(1, vanished("own")))
    wrong = (
        [f"exit code {ended.code}, not 0"] if ended.code else same(stage.folder / "out", stage.world.folder / "whole")
    )
    return Outcome(ended.code, told(ended), tuple(wrong))


def tensor() -> None:
    torch.ones(1 << 30).sum()


def objects() -> None:
    bytearray(1 << 32)


def no_memory(program: str, command: list[str], at: Callable[[int, Action], Action], take: Callable[[], None]) -> Play:
    """The process may have no more memory than it has."""

    def limit() -> None:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (held + (64 << 20), resource.RLIM_INFINITY))
        take()

    def play(stage: Stage) -> Outcome:
        ended = stage.run(program, *command, before=at(1, limit))
        return Outcome(ended.code, told(ended), (*faults_of(ended, ["memory"]), *torn(stage.folder / "out")))

    return play


def spoiled(steps: set[int]) -> Action:
    """The loss of these steps is nan."""

    def place() -> None:
        from learnpruner.training.pruner_module import PrunerLitModule

        plain = PrunerLitModule.training_step

        def step(self: Any, batch: Any, index: int) -> Any:
            return plain(self, batch, index) * (float("nan") if index in steps else 1)

        PrunerLitModule.training_step = step  # type: ignore[method-assign]

    return place


def nan_once(stage: Stage) -> Outcome:
    """The step is left out and counted, and the run ends well."""
    ended = stage.run("train.py", *FOUR, before=spoiled({1}))
    if ended.code != 0:
        return Outcome(ended.code, told(ended), (f"exit code {ended.code}, not 0",))
    held = json.loads((stage.folder / "out/export/config.json").read_text())["metrics"]
    wrong = [] if held.get("skipped") == 1 else [f"{held.get('skipped')} steps are counted as left out"]
    return Outcome(0, next((line for line in ended.err.splitlines() if "left out" in line), ""), tuple(wrong))


def nothing_infinite(stage: Stage) -> list[str]:
    """Whatever checkpoint there is holds finite values, and there is no export."""
    wrong = ["there is an export"] * (stage.folder / "out/export").exists()
    for path in (stage.folder / "out").rglob("*.ckpt"):
        held = torch.load(path, weights_only=True)["state_dict"]
        wrong += [] if all(value.isfinite().all() for value in held.values()) else [f"{path.name} is not finite"]
    return wrong


def nan_from_then_on(stage: Stage) -> Outcome:
    ended = stage.run("train.py", *FOUR, before=spoiled({1, 2, 3}))
    wrong = [*faults_of(ended, ["the loss is not finite", "batch 3"]), *nothing_infinite(stage)]
    wrong += [] if (stage.folder / "out/checkpoints/last.ckpt").is_file() else ["no checkpoint was kept"]
    return Outcome(ended.code, told(ended), tuple(wrong))


def divergent(stage: Stage) -> Outcome:
    settings = ["optimizer=sgd", "optimizer.lr=1e38", "trainer.gradient_clip_val=0", "trainer.max_steps=6"]
    ended = stage.run("train.py", *TRAIN, "callbacks.checkpoint.every_n_train_steps=1", *settings)
    return Outcome(ended.code, told(ended), (*faults_of(ended, ["not finite"]), *nothing_infinite(stage)))


def broken(plan: Any) -> None:
    with torch.no_grad():
        next(iter(plan.parameters())).fill_(float("nan"))


def nan_weights(stage: Stage) -> Outcome:
    """A bit that has flipped, say: no checkpoint is written, and the last one stays."""

    def place() -> None:
        plain = torch.optim.AdamW.step
        done = [0]

        def step(self: Any, closure: Any = None) -> Any:
            found = plain(self, closure)
            done[0] += 1
            if done[0] == 2:
                with torch.no_grad():
                    self.param_groups[0]["params"][0].fill_(float("nan"))
            return found

        torch.optim.AdamW.step = step  # type: ignore[method-assign]

    ended = stage.run("train.py", *FOUR, before=place)
    wrong = [*faults_of(ended, ["not finite"]), *nothing_infinite(stage)]
    wrong += [] if (stage.folder / "out/checkpoints/last.ckpt").is_file() else ["no checkpoint was kept"]
    return Outcome(ended.code, told(ended), tuple(wrong))


def nan_export(stage: Stage) -> Outcome:
    def place() -> None:
        from learnpruner.plan import Plan

        plain = Plan.save

        def save(self: Any, *given: Any, **more: Any) -> Any:
            broken(self)
            return plain(self, *given, **more)

        Plan.save = save  # type: ignore[method-assign]

    ended = stage.run("train.py", *FOUR, before=place)
    return Outcome(ended.code, told(ended), (*faults_of(ended, ["not finite"]), *nothing_infinite(stage)))
