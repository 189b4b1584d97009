"""kill -9 at every moment that counts: what was whole stays whole, and the run goes on as if nothing had been."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

import learnpruner
from bad.case import Case, Outcome, Play, Stage, killed, told
from bad.commands import EVAL, TRAIN
from bad.moments import (
    Action,
    at_answer,
    at_export,
    at_loading,
    at_step,
    dies,
    half_written,
    in_optimizer,
    renaming,
    unwritten,
)

FOUR = [*TRAIN, "trainer.max_steps=4", "callbacks.checkpoint.every_n_train_steps=1"]
SHARED_MEMORY = Path("/dev/shm")  # another file system than the temporary folder's


def moments() -> dict[str, Action]:
    """Name -> the fault. Each step writes two checkpoints, its own and last.ckpt."""
    return {
        "while the backbone is loaded": at_loading(dies),
        "in the first step": at_step(0, dies),
        "in the third step": at_step(2, dies),
        "in the middle of the optimizer's step": in_optimizer(2, dies),
        "when the first checkpoint is empty": unwritten(".ckpt", 0, dies),
        "when half of the first checkpoint is written": half_written(".ckpt", 0, dies),
        "when half of a later last.ckpt is written": half_written("last.ckpt", 2, dies),
        "when a later last.ckpt is empty": unwritten("last.ckpt", 2, dies),
        "before a later last.ckpt is renamed": renaming("last.ckpt", 2, dies),
        "behind the renaming of a later last.ckpt": renaming("last.ckpt", 2, dies, behind=True),
    }


def exports() -> dict[str, Action]:
    return {
        "before the export": at_export(dies),
        "when half of the export's weights are written": half_written(".safetensors", 0, dies),
        "when the export has weights and an empty config": unwritten("config.json", 0, dies),
        "before the export's config is renamed": renaming("config.json", 0, dies),
    }


def cases() -> Iterator[Case]:
    for name, fault in moments().items():
        short = "half of a later" in name
        lost = 2 if "behind the renaming" in name else None
        yield Case("kill -9", name, goes_on_behind(fault, lost=lost), fault=True, short=short)
    for name in (
        "when half of a later last.ckpt is written",
        "before a later last.ckpt is renamed",
        "in the third step",
    ):
        yield Case("kill -9", f"{name}, on another file system", goes_on_behind(moments()[name], True), fault=True)
    for name, fault in exports().items():
        yield Case("kill -9", name, export_cut(fault), fault=True)
    name = "when half of the export's weights are written"
    yield Case("kill -9", f"{name}, on another file system", export_cut(exports()[name], True), fault=True)
    yield Case("kill -9", "in an evaluation", evaluation, fault=True)
    yield Case("kill -9", "in an evaluation, when half of results.json is written", half_results, fault=True)


def place(stage: Stage, elsewhere: bool) -> str:
    """The run's folder: here, or in memory."""
    if not elsewhere:
        return "out"
    folder = Path(tempfile.mkdtemp(dir=SHARED_MEMORY, prefix="bad-"))
    stage.elsewhere.append(folder)
    return str(folder / "out")


def goes_on_behind(fault: Action, elsewhere: bool = False, lost: int | None = None) -> Play:
    """It is killed; every checkpoint in its folder is whole; going on gives the weights and losses of the whole run.

    lost: the step whose row of metrics.csv, written behind its checkpoint, may be missing.
    """

    def play(stage: Stage) -> Outcome:
        folder = place(stage, elsewhere)
        ended = stage.run("train.py", *FOUR, f"hydra.run.dir={folder}", before=fault)
        wrong = [*killed(ended), *torn(stage.folder / folder), *went_on(stage, folder, lost)]
        return Outcome(ended.code, "", tuple(wrong))

    return play


def torn(folder: Path) -> list[str]:
    """Checkpoints under their own names that cannot be read."""
    wrong = []
    for path in folder.glob("checkpoints/[!.]*"):
        try:
            torch.load(path, weights_only=True)
        except Exception:
            wrong.append(f"{path.name} is torn")
    return wrong


def went_on(stage: Stage, folder: str, lost: int | None) -> Iterable[str]:
    """From its checkpoint, in its own folder; or, where it had none yet, from the start, in a new one."""
    last = stage.folder / folder / "checkpoints/last.ckpt"
    begun = [] if last.is_file() else FOUR
    target = folder if last.is_file() else "again"
    given = [f"ckpt_path={last}"] if last.is_file() else []
    ended = stage.run("train.py", *begun, *given, f"hydra.run.dir={target}")
    if ended.code != 0:
        return [f"it did not go on ({told(ended)})"]
    return same(stage.folder / target, stage.world.folder / "whole", lost)


def same(folder: Path, whole: Path, lost: int | None = None) -> list[str]:
    """What differs from the run that nothing happened to."""
    wrong = []
    found, right = (load_file(one / "export/model.safetensors") for one in (folder, whole))
    if any(not torch.equal(value, found[name]) for name, value in right.items()):
        wrong.append("its weights are others")
    if losses(folder) not in (losses(whole), [row for row in losses(whole) if row[0] != str(lost)]):
        wrong.append("its losses are others")
    return wrong


def losses(folder: Path) -> list[tuple[str, str]]:
    rows = csv.DictReader((folder / "metrics.csv").open())
    return [(row["step"], row["loss"]) for row in rows if row.get("loss")]


def export_cut(fault: Action, elsewhere: bool = False) -> Play:
    """No half export is taken for a plan, and the weights are still in last.ckpt."""

    def play(stage: Stage) -> Outcome:
        folder = place(stage, elsewhere)
        ended = stage.run("train.py", *FOUR, f"hydra.run.dir={folder}", before=fault)
        wrong = [*killed(ended), *torn(stage.folder / folder)]
        export, last = stage.folder / folder / "export", stage.folder / folder / "checkpoints/last.ckpt"
        right = load_file(stage.world.folder / "whole/export/model.safetensors")
        held = torch.load(last, weights_only=True)["state_dict"]
        if any(not torch.equal(value, held[f"plan.{name}"]) for name, value in right.items()):
            wrong.append("last.ckpt has other weights")
        wrong += taken(export, right)
        ended_again = stage.run("train.py", f"ckpt_path={last}", "trainer.max_steps=5", "hydra.run.dir=again")
        if ended_again.code != 0:
            wrong.append(f"it did not go on ({told(ended_again)})")
        return Outcome(ended.code, "", tuple(wrong))

    return play


def taken(export: Path, right: dict[str, torch.Tensor]) -> list[str]:
    """An export that loads must be the whole one."""
    try:
        found = learnpruner.load(export).state_dict()
    except learnpruner.utils.errors.UserError:
        return []
    return [] if all(torch.equal(value, found[name]) for name, value in right.items()) else ["half an export was taken"]


def evaluation(stage: Stage) -> Outcome:
    """There are no results, and the same command begins anew elsewhere."""
    ended = stage.run("eval.py", *EVAL, "plan=export", before=at_answer(1, dies))
    wrong = [*killed(ended)]
    wrong += ["there are results"] * (stage.folder / "out/results.json").exists()
    again = stage.run("eval.py", *EVAL, "plan=export", "hydra.run.dir=again")
    wrong += [] if again.code == 0 else [f"it did not begin anew ({told(again)})"]
    return Outcome(ended.code, "", tuple(wrong))


def half_results(stage: Stage) -> Outcome:
    """Half a results.json is not left under its name."""
    ended = stage.run("eval.py", *EVAL, "plan=export", before=half_written("results.json", 0, dies))
    wrong = [*killed(ended)]
    wrong += ["results.json is torn"] * (stage.folder / "out/results.json").exists()
    return Outcome(ended.code, "", tuple(wrong))
