"""Where a run writes: a folder of its own, where nothing that an earlier run left can be taken for this one's.

Hydra would write into whatever folder is there: of two runs of the same second, and over those of an earlier run.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import IO, Any, Literal

from hydra.experimental.callback import Callback
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from learnpruner.config.runs import check_name
from learnpruner.utils.distributed import is_rank_zero
from learnpruner.utils.errors import UserError

LEFT = (
    "config.yaml",
    "multirun.yaml",
    "results.json",
    "metrics.csv",
    "checkpoints",
    "export",
    "answers",
    "turns.jsonl",
)
LOCK = ".lock"
CLAIMS: list[IO[str]] = []  # of this process; held open


class Refused(BaseException):
    """Carries an error through Hydra, which turns every Exception of a callback into a warning."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class OwnFolder(Callback):
    """Makes a run's or sweep's folder before Hydra does; told to it in conf/train.yaml and conf/eval.yaml."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        carried(lambda: place(config, "run"))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        carried(lambda: place(config, "sweep"))


def carried(action: Callable[[], None]) -> None:
    """Run a callback's action; what it raises passes through Hydra as `Refused`."""
    try:
        action()
    except Exception as error:
        raise Refused(error) from error


def place(config: DictConfig, kind: Literal["run", "sweep"]) -> None:
    """Make a dated folder, under another name where two runs want the same; one that was asked for must be unused."""
    check_name(config.name)
    if not is_rank_zero():  # the first of several processes has made it
        return
    asked, key = Path(config.hydra[kind].dir), f"hydra.{kind}.dir"
    if any(one.startswith(f"{key}=") for one in config.hydra.overrides.hydra):
        claim(asked, key, shared=resumes(asked, config))
        check_unused(asked, config, key)
        return
    made = fresh(asked)
    claim(made, key, shared=False)
    if made != asked:
        with read_write(config), open_dict(config):
            config.hydra[kind].dir = str(made)
            config.hydra.overrides.hydra.append(f"{key}='{made}'")  # jobs of a sweep compose their config anew


def fresh(path: Path) -> Path:
    """Make a new folder of this name, or with _1, _2, ... behind it where the name is taken."""
    for number in count():
        folder = path.with_name(f"{path.name}_{number}") if number else path
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def claim(folder: Path, key: str, shared: bool) -> None:
    """Refuse a folder that another run is writing into; the claim ends with this process, however it ends.

    Args:
        folder: of the run.
        key: of the setting that names it.
        shared: among runs that each answer a share of the same questions.

    Raises:
        UserError: where another run writes into it.
    """
    CLAIMS.clear()  # of an earlier run of this process
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("a")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(f"{key}={folder} is in use by another run: give another folder, or wait for its end.") from None
    except OSError:  # a file system without locks
        file.close()
    else:
        CLAIMS.append(file)


def check_unused(folder: Path, config: DictConfig, key: str) -> None:
    """Refuse a folder that an earlier run wrote into, unless this run goes on with that one."""
    left = [name for name in LEFT if (folder / name).exists()]
    if left and not (key == "hydra.run.dir" and goes_on(folder, config, left)):
        raise UserError(
            f"{key}={folder} holds {left[0]} of an earlier run, which would be overwritten: give a new folder, or delete "
            f"this one{way_on(folder, left)}."
        )


def goes_on(folder: Path, config: DictConfig, left: list[str]) -> bool:
    """Tell whether the run takes up the one that the folder belongs to: from its checkpoint, or from its kept answers."""
    checkpoint, task = (OmegaConf.select(config, key) for key in ("ckpt_path", "benchmark._target_"))
    if checkpoint is not None:
        return Path(checkpoint).resolve().parent == (folder / "checkpoints").resolve()
    if task is not None and getattr(get_object(task), "resumes_in_place", False):
        return "answers" in left or left == ["config.yaml"]  # the answers say whether they are the same run's
    return resumes(folder, config)


def resumes(folder: Path, config: DictConfig) -> bool:
    """Tell whether the run goes on with the answers that are kept in this folder, as others may beside it."""
    resumed = OmegaConf.select(config, "benchmark.resume")
    return resumed is not None and Path(resumed).resolve() == folder.resolve()


def way_on(folder: Path, left: list[str]) -> str:
    """Word how to go on with what an earlier run left in a folder; "" where nothing can be gone on with."""
    if "checkpoints" in left:
        return f"; ckpt_path={folder}/checkpoints/last.ckpt goes on with its training"
    return f"; benchmark.resume={folder} goes on with its answers" if "answers" in left else ""
