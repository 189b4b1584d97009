"""What befalls a training from outside ends it in one sentence that says how to go on, and going on loses nothing."""

import csv
import errno
import multiprocessing
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from learnpruner.training.pruner_module import PrunerLitModule
from tests.tiny_folder import tiny_folder
from tests.training_run import start

SMALL = """backbone.path=tiny logger=csv callbacks.progress=false trainer.accelerator=cpu trainer.precision=32-true trainer.log_every_n_steps=1
data.images_per_batch=1 data.questions_per_image=2 prune_ratio=0.2 grad_tokens_per_image=8 benchmark.limit=2 benchmark.num_examples=0 benchmark.baselines_to_run=[]
trainer.max_steps=4 callbacks.checkpoint.every_n_train_steps=1""".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    tiny_folder(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def whole(place):
    return start(place, "whole", *SMALL)


def losses(folder):
    return [row["loss"] for row in csv.DictReader((folder / "metrics.csv").open()) if row.get("loss")]


def no_memory(folder):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


def no_host_memory(folder):
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: 99 bytes.")


def worker_killed(folder):
    for child in multiprocessing.active_children():
        child.kill()


FAILURES = {
    "memory": (no_memory, [], "out of memory on cpu"),
    "host memory": (no_host_memory, [], "out of memory on cpu"),
    "worker": (worker_killed, ["data.workers=1"], "a data worker (process"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_says_what_is_safe_and_the_run_goes_on(name, place, whole, monkeypatch, capsys):
    fail, settings, words = FAILURES[name]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(
            PrunerLitModule, "on_train_batch_start", lambda self, _, index: fail(None) if index == 2 else None
        )
        start(place, name.replace(" ", "-"), *SMALL, *settings)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(said) == 1 and words in said[0] and "step " in said[0]
    assert "go on with: python train.py ckpt_path=" in said[0]
    path = said[0].rpartition("ckpt_path=")[2]
    resumed = start(place, f"{name.replace(' ', '-')}-on", f"ckpt_path={path}")
    saved = int(said[0].partition("safe up to step ")[2].partition(";")[0])
    assert losses(resumed) == losses(whole)[saved:] and saved >= 1
    for key, value in load_file(whole / "export/model.safetensors").items():
        assert torch.equal(value, load_file(resumed / "export/model.safetensors")[key]), key


def test_a_full_disk_names_the_file_and_what_is_safe(place, monkeypatch, capsys):
    sync, seen = os.fsync, []

    def full(file):
        seen.append(file)
        if len(seen) > 6:  # a checkpoint takes two files and, for each, the folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return sync(file)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(os, "fsync", full)
        start(place, "full", *SMALL)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    folder = place / "runs/full/checkpoints"
    assert stopped.value.code == 2 and f"{folder}/last.ckpt cannot be written or read: No space left on device" in said
    assert f"safe up to step 2; go on with: python train.py ckpt_path={folder}/step_2.ckpt" in said
    steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in folder.iterdir()}
    assert steps["step_2.ckpt"] == 2 and steps["last.ckpt"] == 1


def test_a_folder_that_vanishes_is_one_sentence(place, monkeypatch, capsys):
    def remove(self, _, index):
        if index == 2:
            shutil.rmtree(place / "runs/gone")

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(PrunerLitModule, "on_train_batch_start", remove)
        start(place, "gone", *SMALL)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and f"the run's folder {place / 'runs/gone'} is gone" in said
    assert "Nothing of this run was saved" in said


def test_an_error_of_the_program_keeps_its_trace(place, monkeypatch):
    def fail(self, batch, index):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(PrunerLitModule, "training_step", fail)
    with pytest.raises(RuntimeError, match="a mistake"):
        start(place, "mistake", *SMALL)


def test_a_run_that_ended_before_its_export_goes_on_to_it(place, whole):
    shutil.copytree(whole, place / "runs/unexported", ignore=shutil.ignore_patterns("export"))
    resumed = start(place, "exported", "ckpt_path=runs/unexported/checkpoints/last.ckpt")
    for key, value in load_file(whole / "export/model.safetensors").items():
        assert torch.equal(value, load_file(resumed / "export/model.safetensors")[key]), key
    assert (resumed / "results.json").is_file()
