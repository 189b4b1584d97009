"""Which share of the work this process does: alone, one of torchrun's, or one of several started by hand."""

from __future__ import annotations

import atexit
import os
import re
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from learnpruner.utils.errors import UserError

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # where Lightning looks, in its order
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
        from torch import distributed

        box = [str(folder)]
        distributed.broadcast_object_list(box)
        return Path(box[0])

    def wait(self) -> None:
        """Go on when all joined processes are here."""
        if self.joined:
            from torch import distributed

            distributed.barrier()


def init_rank(shard: str | None) -> Rank:
    """Inside a process group that somebody else opened (a trainer's) the caller alone evaluates.

    Args:
        shard: "auto" takes RANK and WORLD_SIZE from torchrun; "2/8" is the third of eight; None works alone.
    """
    if shard is None:
        return Rank()
    if shard == "auto":
        from torch import distributed

        if "RANK" not in os.environ or distributed.is_initialized() or int(os.environ["WORLD_SIZE"]) == 1:
            return Rank()
        distributed.init_process_group("gloo", timeout=_PATIENCE)
        atexit.register(_leave_group)  # its threads, left running, may abort a process that has done its work
        return Rank(distributed.get_rank(), distributed.get_world_size(), joined=True)
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if found is None or not int(found[1]) < int(found[2]):
        raise UserError(f"benchmark.shard={shard} is refused: write auto, or 0/4, 1/4, 2/4, 3/4 for four processes.")
    return Rank(int(found[1]), int(found[2]))


def _leave_group() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def is_rank_zero() -> bool:
    """Whether this process is alone, or the first of those that train together: it alone prints and writes."""
    lightning = sys.modules.get("lightning.pytorch.utilities.rank_zero")
    if lightning is not None:  # which knows once it is there, and is heavy
        return int(getattr(lightning.rank_zero_only, "rank", 0) or 0) == 0
    return int(next((os.environ[key] for key in _RANKS if key in os.environ), 0)) == 0


def check_common_folder(given: bool) -> None:
    """Refuse processes that torchrun started without a folder in common; a trainer's own processes are told theirs."""
    if not given and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "these processes would each make a folder of their own: give hydra.run.dir=FOLDER, or leave torchrun out "
            "and write trainer=ddp trainer.devices=2."
        )


def default_device() -> str:
    """A GPU where there is one: torchrun's local rank says which."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
