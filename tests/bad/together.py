"""Several at once: two runs, two processes of one run of which one dies, a run that goes on in its own folder."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from bad.case import Case, Outcome, Stage, faults_of, refused, sentences, told
from bad.commands import EVAL
from bad.kills import FOUR, losses, same, torn
from bad.moments import Action, at_step, dies
from bad.process import Ended, Running

OWN = [one for one in FOUR if not one.startswith("hydra.run.dir=")]
ASKED = [one for one in EVAL if not one.startswith("hydra.run.dir=")]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_steps=200"]


def cases() -> Iterator[Case]:
    yield Case("two runs at once", "trained in the same second", same_second, fault=True, short=True)
    yield Case("two runs at once", "evaluated in the same second", evaluated_in_the_same_second, fault=True)
    yield Case("two runs at once", "trained with one hydra.run.dir=", one_folder_trained, fault=True)
    yield Case("two runs at once", "evaluated with one hydra.run.dir=", one_folder_evaluated, fault=True)
    yield Case("two runs at once", "two that go on from one checkpoint", two_from_one, fault=True)
    yield Case("resumed in its own folder", "behind a kill", own_folder, fault=True)
    yield Case("resumed in its own folder", "behind two kills", own_folder_twice, fault=True)
    yield Case("resumed in its own folder", "when it had ended", ended_run, fault=True)
    yield Case("resumed in its own folder", "from the checkpoint of another run", other_run, fault=True)
    yield Case("dead rank", "the second of two", second_rank, fault=True)
    yield Case("dead rank", "the first of two", first_rank, fault=True)


def in_second() -> None:
    """The clock that names folders stands still."""

    class Second(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Second:
            return cls(2026, 1, 2, 3, 4, 5)

    from hydra.core import utils

    utils.datetime = Second  # type: ignore[attr-defined]


def together(stage: Stage, program: str, *settings: list[str], before: Action = in_second) -> list[Ended]:
    started = [stage.begin(program, *given, before=before) for given in settings]
    return [one.wait(240) for one in started]


def folders(stage: Stage, pattern: str, ended: list[Ended]) -> list[str]:
    """Each has a folder of its own with all of its results."""
    wrong = [f"exit code {one.code}, not 0 ({told(one)})" for one in ended if one.code != 0]
    found = sorted(stage.folder.glob(pattern))
    if len(found) != len(ended):
        wrong.append(f"{len(found)} folders")
    return wrong + [f"{one.name} has no results" for one in found if not (one / "results.json").is_file()]


def same_second(stage: Stage) -> Outcome:
    ended = together(
        stage, "train.py", [*OWN, "publish_export=true", "seed=1"], [*OWN, "publish_export=true", "seed=2"]
    )
    wrong = folders(stage, "logs/train/runs/*", ended)
    for run in stage.folder.glob("logs/train/runs/*"):
        config = (run / "config.yaml").read_text()
        copy = next(iter(stage.folder.glob(f"checkpoints/*-{run.name}")), run)
        mine = (run / "export/model.safetensors").read_bytes()
        if (
            copy == run
            or (copy / "model.safetensors").read_bytes() != mine
            or ("seed: 1" in config) == ("seed: 2" in config)
        ):
            wrong.append(f"{run.name} is a mixture")
    return Outcome(ended[0].code, "", tuple(wrong))


def evaluated_in_the_same_second(stage: Stage) -> Outcome:
    ended = together(stage, "eval.py", [*ASKED, "plan=export"], [*ASKED, "plan=none"])
    wrong = folders(stage, "logs/eval/runs/*", ended)
    plans = [json.loads(path.read_text())["plan"] for path in stage.folder.glob("logs/eval/runs/*/results.json")]
    return Outcome(
        ended[0].code, "", (*wrong, *[f"results of {plans}"] * (sorted(map(str, plans)) != ["None", "export"]))
    )


def one_of_two(stage: Stage, ended: list[Ended]) -> list[str]:
    """One is carried out, the other is refused in a sentence."""
    codes = sorted(one.code if one.code is not None else -1 for one in ended)
    if codes != [0, 2]:
        return [f"exit codes {codes}"]
    (other,) = (one for one in ended if one.code == 2)
    wrong = faults_of(
        other, ["hydra.run.dir=out", "of an earlier run" if "earlier" in other.err else "in use by another run"]
    )
    return wrong + ["no results"] * (not (stage.folder / "out/results.json").is_file())


def said(ended: list[Ended]) -> str:
    return next((line for one in ended for line in sentences(one)), "")


def one_folder_trained(stage: Stage) -> Outcome:
    ended = together(stage, "train.py", [*FOUR, "seed=1"], [*FOUR, "seed=2"])
    return Outcome(max(one.code or 0 for one in ended), said(ended), tuple(one_of_two(stage, ended)))


def one_folder_evaluated(stage: Stage) -> Outcome:
    ended = together(stage, "eval.py", [*EVAL, "plan=export"], [*EVAL, "plan=none"])
    return Outcome(max(one.code or 0 for one in ended), said(ended), tuple(one_of_two(stage, ended)))


def two_from_one(stage: Stage) -> Outcome:
    """Each in a folder of its own, with the same end."""
    stage.run("train.py", *FOUR, before=at_step(2, dies))
    given = ["ckpt_path=out/checkpoints/last.ckpt"]
    ended = together(stage, "train.py", [*given, "hydra.run.dir=a"], [*given, "hydra.run.dir=b"])
    wrong = [f"exit code {one.code}, not 0 ({told(one)})" for one in ended if one.code != 0]
    if not wrong:
        weights = [(stage.folder / one / "export/model.safetensors").read_bytes() for one in ("a", "b")]
        whole = (stage.world.folder / "whole/export/model.safetensors").read_bytes()
        wrong += [] if weights == [whole, whole] else ["their weights are others"]
    return Outcome(ended[0].code, "", tuple(wrong))


def own_folder(stage: Stage, kills: tuple[int, ...] = (2,)) -> Outcome:
    """Metrics are appended, each step once, and nothing is left over."""
    stage.run("train.py", *FOUR, before=at_step(kills[0], dies))
    given = ["ckpt_path=out/checkpoints/last.ckpt", "hydra.run.dir=out"]
    for number in kills[1:]:
        stage.run("train.py", *given, before=at_step(number, dies))
    ended = stage.run("train.py", *given)
    folder, whole = stage.folder / "out", stage.world.folder / "whole"
    wrong = [f"exit code {ended.code}, not 0"] if ended.code else [*same(folder, whole), *torn(folder)]
    steps = [step for step, _ in losses(folder)]
    wrong += [f"losses of steps {steps}"] * (steps != ["0", "1", "2", "3"])
    wrong += ["there is a last-v1.ckpt"] * any(folder.glob("checkpoints/*-v*"))
    return Outcome(ended.code, told(ended), tuple(wrong))


def own_folder_twice(stage: Stage) -> Outcome:
    return own_folder(stage, (1, 1))


def ended_run(stage: Stage) -> Outcome:
    """Refused: there is nothing to go on with."""
    stage.copy("whole", "out")
    given = ["ckpt_path=out/checkpoints/last.ckpt", "hydra.run.dir=out"]
    return refused(stage, "train.py", *given, words=["at step 4 and trainer.max_steps is 4"], but=("out/config.yaml",))


def other_run(stage: Stage) -> Outcome:
    stage.copy("whole", "out")
    return refused(
        stage, "train.py", *FOUR, "ckpt_path=run/checkpoints/last.ckpt", words=["hydra.run.dir=out", "earlier run"]
    )


def alive(group: int) -> list[int]:
    """Processes of a group that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def nobody_left(running: Running, limit: float = 120) -> list[str]:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if not alive(running.pid):
            return []
        time.sleep(0.05)
    return ["a process was left behind"]


def second_rank(stage: Stage) -> Outcome:
    """Lightning ends the first as soon as it sees it, nobody is left, and the last checkpoint is whole."""
    running = stage.begin("train.py", *FOUR, *TWO)
    met = running.until((stage.folder / "out/checkpoints/last.ckpt").is_file)
    for pid in alive(running.pid):
        if pid != running.pid:
            os.kill(pid, signal.SIGKILL)
    wrong = [] if met else ["it did not begin"]
    running.until(lambda: False, 120)
    wrong += nobody_left(running)
    ended = running.wait(10)
    wrong += [] if ended.code not in (0, None) else [f"exit code {ended.code}"]
    wrong += torn(stage.folder / "out")
    wrong += ["a stack trace"] * ("Traceback (most recent call last)" in ended.err)
    wrong += ["it does not say how to go on"] * (
        "go on with ckpt_path=" not in (stage.folder / "out/train.log").read_text()
    )
    return Outcome(ended.code, told(ended), tuple(wrong))


def first_rank(stage: Stage) -> Outcome:
    """The second does not wait for ever."""
    running = stage.begin("train.py", *FOUR, *TWO)
    met = running.until((stage.folder / "out/checkpoints/last.ckpt").is_file)
    running.signal(signal.SIGKILL)
    wrong = [*([] if met else ["it did not begin"]), *nobody_left(running)]
    ended = running.wait(10)
    wrong += torn(stage.folder / "out")
    return Outcome(ended.code, told(ended), tuple(wrong))
