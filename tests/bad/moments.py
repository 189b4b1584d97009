"""Faults at a chosen moment of a program: done in its process before it begins."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Action = Callable[[], Any]


def dies() -> None:
    """As `kill -9` does: nothing is said, saved or closed."""
    os.kill(os.getpid(), signal.SIGKILL)


def signalled(number: int, group: bool = False) -> Action:
    """A signal to this process, or, as a terminal sends it, to all of its group."""
    return lambda: os.killpg(0, number) if group else os.kill(os.getpid(), number)


def instead(old: Any, new: Any) -> None:
    """In every module that has imported it by name."""
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()) if hasattr(module, "__dict__") else ():
            if value is old:
                setattr(module, name, new)


def around(owner: Any, name: str, *actions: tuple[int, Action], behind: bool = False) -> None:
    """Actions in front of the calls of these numbers, the first being 0, or behind them."""
    plain, calls = getattr(owner, name), [0]
    wanted = dict(actions)

    def met(*given: Any, **more: Any) -> Any:
        number, calls[0] = calls[0], calls[0] + 1
        if not behind and number in wanted:
            wanted[number]()
        found = plain(*given, **more)
        if behind and number in wanted:
            wanted[number]()
        return found

    if isinstance(owner, type):
        setattr(owner, name, met)
    else:
        instead(plain, met)


def at_step(number: int, action: Action) -> Action:
    """In the middle of a training step; 0 is the first."""
    from learnpruner.training.pruner_module import PrunerLitModule

    return lambda: around(PrunerLitModule, "training_step", (number, action))


def in_optimizer(number: int, action: Action) -> Action:
    """When a step's weights have moved, and its learning rate and its count have not."""
    import torch

    return lambda: around(torch.optim.AdamW, "step", (number, action), behind=True)


def at_answer(number: int, action: Action) -> Action:
    """Before a batch of questions is answered."""
    from transformers import GenerationMixin

    return lambda: around(GenerationMixin, "generate", (number, action))


def at_loading(action: Action) -> Action:
    from learnpruner import backbones

    return lambda: around(backbones, "load_backbone", (0, action))


def at_export(action: Action) -> Action:
    """Before a plan is exported."""
    from learnpruner.plan import Plan

    return lambda: around(Plan, "save", (0, action))


def half_written(ending: str, number: int, action: Action) -> Action:
    """When half of the bytes of the number-th file of such a name are in it."""
    return lambda: _writing(ending, number, action, 0.5)


def unwritten(ending: str, number: int, action: Action) -> Action:
    """When the file is there and empty."""
    return lambda: _writing(ending, number, action, 0.0)


def _writing(ending: str, number: int, action: Action, part: float) -> None:
    plain, met = Path.open, [0]

    def opened(self: Path, mode: str = "r", *given: Any, **more: Any) -> Any:
        file = plain(self, mode, *given, **more)
        if "w" not in mode or ending not in self.name:
            return file
        met[0] += 1
        return Half(file, action, part) if met[0] == number + 1 else file

    Path.open = opened  # type: ignore[assignment,method-assign]


class Half:
    """A file whose first write is cut."""

    def __init__(self, file: Any, action: Action, part: float) -> None:
        self.file, self.action, self.part = file, action, part

    def write(self, data: Any) -> int:
        self.file.write(data[: int(len(data) * self.part)])
        self.file.flush()
        self.action()
        return int(self.file.write(data[int(len(data) * self.part) :])) + int(len(data) * self.part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Half:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()


def renaming(ending: str, number: int, action: Action, behind: bool = False) -> Action:
    """When the number-th file of such a name is about to take its place, or has."""
    plain, met = Path.replace, [0]

    def replaced(self: Path, target: Any) -> Any:
        counts = ending in str(target)
        met[0] += counts
        now = counts and met[0] == number + 1
        if now and not behind:
            action()
        found = plain(self, target)
        if now and behind:
            action()
        return found

    def place() -> None:
        Path.replace = replaced  # type: ignore[method-assign]

    return place


def both(*actions: Action) -> Action:
    return lambda: [action() for action in actions]
