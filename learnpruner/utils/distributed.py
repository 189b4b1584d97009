"""Which share of the work this process does: alone, one of torchrun's, or one of several started by hand."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import distributed

from learnpruner.utils.errors import UserError

_PATIENCE = timedelta(days=7)  # ranks finish hours apart


@dataclass(frozen=True)
class Rank:
    """Number `index` of `count` processes; `joined` ones can wait for each other."""

    index: int = 0
    count: int = 1
    joined: bool = False

    def broadcast_folder(self, folder: Path) -> Path:
        """The first process's folder, in all of them: each was started at its own second."""
        if not self.joined:
            return folder
        box = [str(folder)]
        distributed.broadcast_object_list(box)
        return Path(box[0])

    def wait(self) -> None:
        """Go on when all joined processes are here."""
        if self.joined:
            distributed.barrier()


def init_rank(shard: str | None) -> Rank:
    """Inside a process group that somebody else opened (a trainer's) the caller alone evaluates.

    Args:
        shard: "auto" takes RANK and WORLD_SIZE from torchrun; "2/8" is the third of eight; None works alone.
    """
    if shard is None:
        return Rank()
    if shard == "auto":
        if "RANK" not in os.environ or distributed.is_initialized() or int(os.environ["WORLD_SIZE"]) == 1:
            return Rank()
        distributed.init_process_group("gloo", timeout=_PATIENCE)
        return Rank(distributed.get_rank(), distributed.get_world_size(), joined=True)
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if found is None or not int(found[1]) < int(found[2]):
        raise UserError(f"benchmark.shard={shard} is refused: write auto, or 0/4, 1/4, 2/4, 3/4 for four processes.")
    return Rank(int(found[1]), int(found[2]))


def is_rank_zero() -> bool:
    """Whether this process is alone, or the first of those that train together: it alone prints and writes."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def check_common_folder(given: bool) -> None:
    """Refuse processes that torchrun started without a folder in common; a trainer's own processes are told theirs."""
    if not given and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "these processes would each make a folder of their own: give hydra.run.dir=FOLDER, or leave torchrun out "
            "and write trainer=ddp trainer.devices=2."
        )


def default_device() -> str:
    """A GPU where there is one: torchrun's local rank says which."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
