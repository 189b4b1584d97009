"""The real program in two processes: it trains as one does on twice the batches, and where one fails none is left waiting."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.profilers import AdvancedProfiler
from safetensors.torch import load_file

import train
from learnpruner.cli.entries import make_entries
from learnpruner.data.scenes import write_folder
from learnpruner.training.trainer import make_trainer
from tests.tiny_folder import tiny_folder

ROOT = Path(__file__).parents[2]
SMALL = """backbone.path=tiny callbacks.progress=false trainer.precision=32-true trainer.log_every_n_steps=1 data.images_per_batch=1
data.questions_per_image=2 prune_ratio=0.2 grad_tokens_per_image=8 benchmark.limit=2 benchmark.num_examples=0 benchmark.baselines_to_run=[random]
trainer.max_steps=4 logger=csv""".split()
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
FAILING = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import train
from learnpruner.training.pruner_module import PrunerLitModule

def stop(self, batch, index):
    if index == 2 and self.global_rank == 0:
        raise ValueError("broken on purpose")

PrunerLitModule.on_train_batch_start = stop
train.main()
"""
INTERRUPTED = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import train
from learnpruner.training.pruner_module import PrunerLitModule

def interrupt(self, batch, index):
    if index == 1 and self.global_rank == 1:
        os.killpg(os.getpgid(0), signal.SIGINT)

PrunerLitModule.on_train_batch_start = interrupt
train.main()
"""
SPOILED = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import train
from learnpruner.training.pruner_module import PrunerLitModule

plain = PrunerLitModule.training_step

def spoiled(self, batch, index):
    bad = self.global_rank == self.trainer.world_size - 1 and str(index) in os.environ["BAD"]
    return plain(self, batch, index) * (float("nan") if bad else 1)

PrunerLitModule.training_step = spoiled
train.main()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the backbone, eight scenes of which two cannot be read, and a program whose first process fails."""
    folder = tmp_path_factory.mktemp("place")
    tiny_folder(folder / "tiny")
    write_folder(folder / "json", "train", 8, questions=3)
    for broken in ("train-000002", "train-000005"):
        (folder / f"json/images/{broken}.png").write_bytes(b"no picture")
    (folder / "failing.py").write_text(FAILING)
    (folder / "spoiled.py").write_text(SPOILED)
    (folder / "interrupted.py").write_text(INTERRUPTED)
    return folder


def start(place, name, *settings, program=ROOT / "train.py"):
    """Runs a program to its end, which it reaches when all of its processes have; returns what it said, and its folder."""
    command = [sys.executable, str(program), *SMALL, f"name={name}", *settings]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=240, start_new_session=True)
    return done, next(place.glob(f"logs/{name}/runs/*"))


@pytest.fixture(scope="module")
def two(place):
    return start(place, "two", *TWO, "logger=wandb", "logger.wandb.mode=offline")


def weights(folder):
    return load_file(folder / "export/model.safetensors")


def test_two_processes_leave_what_one_leaves(place, two):
    done, folder = two
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("keeping ") == done.stdout.count("results: ") == done.stdout.count("exported: ") == 1
    assert list(place.glob("logs/two/runs/*")) == [folder]
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step_4.ckpt", "last.ckpt"}
    assert len(list(place.glob("checkpoints/two-*"))) == len(list(folder.glob("wandb/offline-run-*"))) == 1
    steps = [row["step"] for row in csv.DictReader((folder / "metrics.csv").open()) if row.get("loss")]
    assert steps == ["0", "1", "2", "3"]
    assert json.loads((folder / "results.json").read_text())["samples"] == 2


def test_two_processes_train_as_one_that_accumulates_two_batches(place, two, monkeypatch):
    """Same samples, same random numbers, mean of the gradients."""
    monkeypatch.chdir(place)
    line = [*SMALL, "name=one", "trainer.accelerator=cpu", "trainer.accumulate_grad_batches=2"]
    monkeypatch.setattr(sys, "argv", ["train.py", *line])
    train.main()
    (one,) = place.glob("logs/one/runs/*")
    found = weights(two[1])
    for name, value in weights(one).items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_where_the_first_process_fails_all_end_and_the_run_goes_on_from_its_last_step(place, two):
    done, folder = start(place, "failed", *TWO, program=place / "failing.py")
    assert done.returncode not in (0, None) and "broken on purpose" in done.stderr
    checkpoint = folder / "checkpoints/last.ckpt"
    assert f"stopped after step 2; go on with ckpt_path={checkpoint}" in (folder / "train.log").read_text()
    done, resumed = start(place, "resumed", *TWO, f"ckpt_path={checkpoint}")
    assert done.returncode == 0, done.stderr
    found = weights(resumed)
    assert all(torch.equal(value, found[name]) for name, value in weights(two[1]).items())


def test_an_interrupt_of_all_processes_ends_them_behind_a_whole_step(place, two):
    """Ctrl-C reaches them all, each somewhere else in its step."""
    done, folder = start(place, "interrupted", *TWO, program=place / "interrupted.py")
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        f"ckpt_path={folder}/checkpoints/last.ckpt",
        f"hydra.run.dir={folder}",
    ]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = weights(folder)
    assert all(torch.equal(value, found[name]) for name, value in weights(two[1]).items())


def test_a_loss_that_is_not_finite_in_one_process_is_left_out_by_all(place, monkeypatch):
    """As one process leaves it out that gathers the batches of both."""
    found = []
    for name, bad, settings in (
        ("both", "1", TWO),
        ("alone", "3", ["trainer.accelerator=cpu", "trainer.accumulate_grad_batches=2"]),
    ):
        monkeypatch.setenv("BAD", bad)
        done, folder = start(place, name, *settings, program=place / "spoiled.py")
        assert done.returncode == 0, done.stderr
        assert json.loads((folder / "export/config.json").read_text())["metrics"]["skipped"] == 1
        found.append(weights(folder))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], atol=1e-5, rtol=1e-4)


def test_three_in_a_row_in_one_process_stop_all_with_its_batch_named(place, monkeypatch):
    monkeypatch.setenv("BAD", "1 2 3")
    done, folder = start(place, "diverged", *TWO, program=place / "spoiled.py")
    assert done.returncode == 2, done.stderr
    (said,) = {line for line in done.stderr.splitlines() if line.startswith("error: ")}
    assert "the loss is not finite at step 3, for 3 steps in a row, at batch 3 (train-7)" in said
    assert not (folder / "export").exists()
    held = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in held["state_dict"].values())


def test_where_any_process_refuses_its_data_all_end_with_its_sentence(place):
    done, folder = start(place, "refused", *TWO, "data=llava_json", "data.json=json/train.json", "data.workers=1")
    assert done.returncode not in (0, None)
    assert "records cannot be used, more than 1%" in done.stderr
    assert "Traceback" not in done.stderr
    listed = [json.loads(line)["id"] for line in (folder / "skipped.jsonl").read_text().splitlines()]
    assert sorted(listed) == ["train-000002", "train-000005"]


def test_settings_reach_lightning(tmp_path):
    settings = {
        "accelerator": "cpu",
        "precision": "32-true",
        "profiler": "advanced",
        "max_steps": 7,
        "accumulate_grad_batches": 3,
        "gradient_clip_val": 0.5,
        "log_every_n_steps": 4,
        "num_nodes": 2,
        "limit_train_batches": 5,
    }
    made = make_trainer(settings, [LearningRateMonitor()], [], tmp_path)
    kept = ("max_steps", "accumulate_grad_batches", "gradient_clip_val", "log_every_n_steps", "num_nodes", "precision")
    assert {name: getattr(made, name) for name in kept} == {name: settings[name] for name in kept}
    assert made.limit_train_batches == 5 and made.limit_val_batches == 0
    assert isinstance(made.profiler, AdvancedProfiler) and made.checkpoint_callback is None
    assert not any(isinstance(one, LearningRateMonitor) for one in made.callbacks)  # nothing is logged


@pytest.mark.parametrize(("steps", "logged"), [(3, 3), (10, 10), (25, 10)])
def test_a_run_shorter_than_the_interval_of_its_log_logs_its_last_step(steps, logged, tmp_path):
    settings = {"accelerator": "cpu", "precision": "32-true", "max_steps": steps}
    assert make_trainer(settings, [], [], tmp_path).log_every_n_steps == logged


def test_entries_are_built_with_what_the_run_knows_and_left_out_at_will(tmp_path):
    entries = {
        "checkpoint": {
            "_target_": "learnpruner.training.checkpointing.SaveOnExceptionCheckpoint",
            "every_n_train_steps": 50,
        },
        "best": {"_target_": "learnpruner.training.checkpointing.BestCheckpoint", "dirpath": "elsewhere"},
        "progress": False,
        "learning_rate": None,
    }
    made = make_entries(entries, dirpath=tmp_path / "checkpoints", total_steps=7)
    assert list(made) == ["checkpoint", "best"]
    assert made["checkpoint"].dirpath == str(tmp_path / "checkpoints") and made["checkpoint"]._every_n_train_steps == 7
    assert Path(made["best"].dirpath).name == "elsewhere"
