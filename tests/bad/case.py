"""A case: an input or a fault, and what must come of it; a stage: the folder where it runs, and its programs."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

from bad.process import ROOT, Ended, Running, begin
from bad.world import World, state

LIMIT = 240  # seconds a program may take, many times of what any needs


@dataclass(frozen=True)
class Outcome:
    """code: of the program that the fault hit; sentence: what it said; wrong: what is not as it must be."""

    code: int | None
    sentence: str
    wrong: tuple[str, ...] = ()
    kind: str = ""
    name: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        return f"WRONG: {'; '.join(self.wrong)}" if self.wrong else "right"


Play = Callable[["Stage"], Outcome]


@dataclass(frozen=True)
class Case:
    """play: does it and judges it. fault: one of the faults, not an input. short: of the short form."""

    kind: str
    name: str
    play: Play
    fault: bool = False
    short: bool = False

    def run(self, world: World) -> Outcome:
        """In a folder of its own, which is removed behind it."""
        before, start = state(world.folder), time.monotonic()
        stage = Stage.made(world, f"{self.kind}-{self.name}")
        try:
            outcome = self.play(stage)
        except Exception as error:  # a case that cannot be played is not right
            outcome = Outcome(None, "", (f"{type(error).__name__}: {' '.join(str(error).split())}",))
        finally:
            stage.close()
        wrong = outcome.wrong if state(world.folder) == before else (*outcome.wrong, "files of other runs were changed")
        spent = time.monotonic() - start
        return replace(
            outcome,
            wrong=wrong,
            kind=self.kind,
            name=self.name,
            seconds=spent,
            sentence=stage.plain(outcome.sentence),
        )


@dataclass
class Stage:
    """A folder with the world's backbone, export and finished run in it, where programs run."""

    world: World
    folder: Path
    elsewhere: list[Path]

    @classmethod
    def made(cls, world: World, name: str) -> Stage:
        folder = Path(mkdtemp(prefix=f"{re.sub(r'[^a-z0-9]+', '-', name)[:40]}-", dir=world.folder.parent))
        for part in world.folder.iterdir():
            (folder / part.name).symlink_to(part)
        return cls(world, folder, [])

    def copy(self, part: str, name: str = "own") -> Path:
        """A copy of a part of the world, to damage."""
        return Path(shutil.copytree(self.world.folder / part, self.folder / name))

    def begin(
        self, program: str, *arguments: str, before: Callable[[], None] | None = None, **environment: str
    ) -> Running:
        """before: done in the program's process before it begins, to place a fault."""
        return begin(program, arguments, self.folder, before, environment)

    def run(self, program: str, *arguments: str, before: Callable[[], None] | None = None, **environment: str) -> Ended:
        return self.begin(program, *arguments, before=before, **environment).wait(LIMIT)

    def plain(self, text: str) -> str:
        """Without the folders of this machine."""
        for path in (self.folder, self.world.folder, *self.elsewhere, ROOT):
            text = text.replace(f"{path}/", "").replace(str(path), ".")
        return " ".join(text.split())

    def close(self) -> None:
        for path in (self.folder, *self.elsewhere):
            shutil.rmtree(path, ignore_errors=True)


def sentences(ended: Ended) -> list[str]:
    """What a program said to the user: its own errors, and those of argparse."""
    said = (re.sub(r"^[\w.]+\.py: (?=error: )", "", line) for line in ended.err.splitlines())
    return [line.removeprefix("error: ") for line in said if line.startswith("error: ")]


def faults_of(ended: Ended, words: Iterable[str], code: int = 2) -> list[str]:
    """What is wrong with a refusal: it says a sentence a fault, the first with these words, and no more."""
    said = sentences(ended)
    wrong = []
    if ended.code != code:
        wrong.append(f"exit code {ended.code}, not {code}")
    if not said or (len(said) > 1 and not all("is no setting" in one for one in said)):
        wrong.append(f"{len(said)} sentences")
    if "Traceback (most recent call last)" in ended.err + ended.out:
        wrong.append("a stack trace")
    wrong += [f"{word!r} is not in the sentence" for word in words if said and word not in said[0]]
    if "results: " in ended.out:
        wrong.append("results were printed")
    return wrong


def refused(
    stage: Stage, program: str, *arguments: str, words: Iterable[str] = (), code: int = 2, but: Container[str] = ()
) -> Outcome:
    """One clear sentence and a code, and nothing that was there is touched, but what is named."""
    before = state(stage.folder)
    ended = stage.run(program, *arguments)
    wrong = faults_of(ended, words, code)
    after = state(stage.folder)
    wrong += [
        f"{path} was changed or lost" for path, held in before.items() if after.get(path) != held and path not in but
    ]
    return Outcome(ended.code, told(ended), tuple(wrong))


def carried(
    stage: Stage, program: str, *arguments: str, check: Callable[[Stage, Ended], Iterable[str]], **options: object
) -> Outcome:
    """Exit code 0, and a result in which the check finds nothing wrong."""
    ended = stage.run(program, *arguments)
    if ended.code:
        return Outcome(ended.code, told(ended), (f"exit code {ended.code}, not 0",))
    return Outcome(0, told(ended), tuple(check(stage, ended)))


def told(ended: Ended) -> str:
    """The sentence, or the last line where there is none."""
    said = sentences(ended)
    if said:
        return said[0]
    if ended.code == 0:
        return next((line for line in reversed(ended.out.splitlines()) if line.startswith("results: ")), "")
    lines = [line for line in ended.err.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def killed(ended: Ended, number: int = signal.SIGKILL) -> list[str]:
    return [] if ended.code == -number else [f"exit code {ended.code}: it was not killed"]
