"""A process finds its share of the work in torchrun's environment or in what it is told."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from learnpruner.utils.distributed import Rank, check_common_folder, init_rank

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os
from pathlib import Path
from learnpruner.utils.distributed import init_rank
rank = init_rank("auto")
rank.wait()
print(rank.index, rank.count, rank.broadcast_folder(Path(f"folder{os.environ['RANK']}")), init_rank("auto").count)
"""


def launch(world, program, cwd, environment=(), ends=0):
    """Runs a program's arguments in `world` processes as torchrun does; returns what each printed. ends: their exit code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    base = {
        "OMP_NUM_THREADS": "1",
        "PATH": "",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HOME": os.environ.get("HOME", "/"),
    }
    base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), **dict(environment)}
    started = [
        subprocess.Popen(
            [sys.executable, *program], cwd=cwd, env={**base, "RANK": str(i), "LOCAL_RANK": str(i)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for i in range(world)
    ]  # fmt: skip
    said = [process.communicate(timeout=200) for process in started]
    assert all(process.returncode == ends for process in started), [error for _, error in said]
    return [out for out, _ in said]


def test_two_joined_processes_share_the_first_ones_folder(tmp_path):
    """Inside the group that is open now, a further call works alone."""
    assert launch(2, ["-c", PROGRAM], tmp_path) == ["0 2 folder0 1\n", "1 2 folder0 1\n"]


def test_alone_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert init_rank("auto") == init_rank(None) == Rank(0, 1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert init_rank("auto") == Rank(0, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert init_rank(None) == Rank(0, 1)


@pytest.mark.parametrize(("shard", "rank"), [("0/4", Rank(0, 4)), ("3/4", Rank(3, 4)), ("0/1", Rank(0, 1))])
def test_a_share_by_hand(shard, rank):
    assert init_rank(shard) == rank


@pytest.mark.parametrize("shard", ["4/4", "1", "a/b", "-1/4", "1/0"])
def test_what_is_no_share(shard):
    with pytest.raises(ValueError, match="write auto, or 0/4"):
        init_rank(shard)


def test_training_processes_without_a_folder_in_common_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"each make a folder of their own: give hydra\.run\.dir=FOLDER"):
        check_common_folder(given=False)
    check_common_folder(given=True)
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_common_folder(given=False)
