"""SIGTERM and Ctrl-C: the shell's status for them, a word on how to go on, and nothing lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator

from bad.case import Case, Outcome, Play, Stage, faults_of, told
from bad.commands import EVAL
from bad.kills import FOUR, same, torn
from bad.moments import Action, at_answer, at_loading, at_step, both, signalled
from bad.process import Ended

TERM, INT = signal.SIGTERM, signal.SIGINT
NAMES = {TERM: "SIGTERM", INT: "Ctrl-C"}


def cases() -> Iterator[Case]:
    for number in (TERM, INT):
        name, group = NAMES[number], number == INT
        send = signalled(number, group)
        yield Case(name, "while the backbone is loaded", ended_with(number, at_loading(send)), fault=True)
        yield Case(name, "in a training step", stopped(number, at_step(1, send)), fault=True)
        yield Case(
            name,
            "in a training step, with two data workers",
            stopped(number, at_step(1, send), "data.workers=2"),
            fault=True,
        )
        yield Case(name, "twice in a training step", stopped(number, at_step(1, both(send, send))), fault=True)
        yield Case(name, "in the last training step", last_step(number, at_step(3, send)), fault=True)
        yield Case(name, "in an evaluation", evaluating(number, at_answer(1, send)), fault=True, short=number == TERM)
    yield Case("SIGTERM", "from outside, whenever it comes", outside(TERM), fault=True)
    yield Case("Ctrl-C", "from outside, whenever it comes", outside(INT), fault=True)
    yield Case("dead worker", "killed in a training step", dead_worker, fault=True)


def status(ended: Ended, number: int) -> list[str]:
    wrong = [] if ended.code == 128 + number else [f"exit code {ended.code}, not {128 + number}"]
    return wrong + ["a stack trace"] * ("Traceback (most recent call last)" in ended.err)


def last_words(ended: Ended) -> str:
    """How to go on, where it is said, else that it was stopped."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    return next(
        (line.partition("WARNING")[2] or line for line in lines if "go on with" in line), lines[-1] if lines else ""
    )


def ended_with(number: int, fault: Action) -> Play:
    def play(stage: Stage) -> Outcome:
        ended = stage.run("train.py", *FOUR, before=fault)
        return Outcome(ended.code, last_words(ended), tuple(status(ended, number)))

    return play


def resumed(stage: Stage, ended: Ended) -> list[str]:
    """Behind its word on how to go on, the run is the whole one."""
    wrong = [] if "go on with ckpt_path=" in ended.err + log(stage) else ["it does not say how to go on"]
    again = stage.run("train.py", "ckpt_path=out/checkpoints/last.ckpt", "hydra.run.dir=out")
    if again.code != 0:
        return [*wrong, f"it did not go on ({told(again)})"]
    return [*wrong, *same(stage.folder / "out", stage.world.folder / "whole")]


def log(stage: Stage) -> str:
    path = stage.folder / "out/train.log"
    return path.read_text() if path.is_file() else ""


def stopped(number: int, fault: Action, *settings: str) -> Play:
    def play(stage: Stage) -> Outcome:
        ended = stage.run("train.py", *FOUR, *settings, before=fault)
        wrong = [*status(ended, number), *torn(stage.folder / "out"), *resumed(stage, ended)]
        return Outcome(ended.code, last_words(ended), tuple(wrong))

    return play


def last_step(number: int, fault: Action) -> Play:
    """The training is done: its export is there, as of the whole run."""

    def play(stage: Stage) -> Outcome:
        ended = stage.run("train.py", *FOUR, before=fault)
        wrong = [*status(ended, number), *same(stage.folder / "out", stage.world.folder / "whole")]
        return Outcome(ended.code, last_words(ended), tuple(wrong))

    return play


def evaluating(number: int, fault: Action) -> Play:
    def play(stage: Stage) -> Outcome:
        ended = stage.run("eval.py", *EVAL, "plan=export", before=fault)
        wrong = [*status(ended, number), *["there are results"] * (stage.folder / "out/results.json").exists()]
        return Outcome(ended.code, last_words(ended), tuple(wrong))

    return play


def outside(number: int) -> Play:
    """Sent by another process as soon as a step has been logged."""

    def play(stage: Stage) -> Outcome:
        running = stage.begin("train.py", *FOUR, "trainer.max_steps=40")
        running.until((stage.folder / "out/checkpoints/last.ckpt").is_file)
        running.signal(number, group=number == INT)
        ended = running.wait(240)
        wrong = [*status(ended, number), *torn(stage.folder / "out")]
        again = stage.run("train.py", "ckpt_path=out/checkpoints/last.ckpt", "hydra.run.dir=out")
        wrong += [] if again.code == 0 else [f"it did not go on ({told(again)})"]
        return Outcome(ended.code, last_words(ended), tuple(wrong))

    return play


def dead_worker(stage: Stage) -> Outcome:
    """One sentence; the last whole step is kept, and the run goes on from it."""

    def kill() -> None:
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    ended = stage.run("train.py", *FOUR, "trainer.max_steps=40", "data.workers=2", before=at_step(1, kill))
    wrong = [*faults_of(ended, ["worker"]), *torn(stage.folder / "out")]
    again = stage.run("train.py", "ckpt_path=out/checkpoints/last.ckpt", "hydra.run.dir=out")
    wrong += [] if again.code == 0 else [f"it did not go on ({told(again)})"]
    return Outcome(ended.code, told(ended), tuple(wrong))
