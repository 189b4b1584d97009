"""Every run has a folder of its own; what an earlier run left is neither overwritten nor taken for this one's."""

import fcntl
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from learnpruner.cli.main import hydra_main
from learnpruner.cli.run_folder import fresh

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a program with a command line, always in the same second; returns the folders that reached its task."""

    class Second(datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hydra.core.utils.datetime", Second)
    monkeypatch.setattr("learnpruner.cli.inherit.fill", lambda _: None)  # checkpoints are stood in for by empty files
    monkeypatch.setattr("learnpruner.cli.inherit.inherited", lambda config, *_: config)
    reached = []

    def task(config, folder):
        (folder / "own.txt").write_text(str(config.seed))
        reached.append(folder)

    def call(*arguments, name="train"):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        hydra_main(CONF, name)(task)()
        return reached

    return call


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(run, capsys, *arguments, **options):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments, **options)
    assert stopped.value.code == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return said


@pytest.mark.parametrize("name", ["train", "eval"])
def test_two_runs_of_the_same_second_have_folders_of_their_own(run, name):
    for seed in (1, 2, 3):
        folders = run(f"seed={seed}", name=name)
    runs = Path("logs", name, "runs").absolute()
    assert folders == [runs / f"2026-01-02_03-04-05{ending}" for ending in ("", "_1", "_2")]
    assert [(folder / "own.txt").read_text() for folder in folders] == ["1", "2", "3"]


def test_two_sweeps_of_the_same_second_have_folders_of_their_own(run):
    run("-m", "seed=1,2")
    folders = run("-m", "seed=3,4")
    sweeps = Path("logs/train/sweeps").absolute()
    assert folders == [sweeps / f"2026-01-02_03-04-05{ending}" / job for ending in ("", "_1") for job in ("0", "1")]
    assert [(folder / "own.txt").read_text() for folder in folders] == ["1", "2", "3", "4"]


def test_a_folder_is_given_once(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(fresh, [tmp_path / "a" / "run"] * 64))
    assert len(set(made)) == 64 and all(path.is_dir() for path in made)


@pytest.mark.parametrize("name", ["train", "eval"])
def test_a_folder_of_an_earlier_run_is_refused_and_stays(run, capsys, name):
    run("hydra.run.dir=mine", "seed=1", name=name)
    before = contents(Path("mine"))
    said = refused(run, capsys, "hydra.run.dir=mine", "seed=2", name=name)
    assert "hydra.run.dir=mine holds config.yaml of an earlier run" in said
    assert contents(Path("mine")) == before


def test_a_folder_of_an_earlier_sweep_is_refused_and_stays(run, capsys):
    run("-m", "hydra.sweep.dir=mine", "seed=1,2")
    before = contents(Path("mine"))
    assert "hydra.sweep.dir=mine holds multirun.yaml" in refused(run, capsys, "-m", "hydra.sweep.dir=mine", "seed=3,4")
    assert contents(Path("mine")) == before


def test_a_folder_without_a_run_in_it_is_taken(run):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    assert run("hydra.run.dir=mine") == [Path("mine").absolute()]


def test_a_run_goes_on_in_its_own_folder_and_in_no_other(run, capsys):
    run("hydra.run.dir=mine")
    for folder in ("mine", "other"):
        Path(folder, "checkpoints").mkdir(parents=True)
        Path(folder, "checkpoints/last.ckpt").touch()
    said = refused(run, capsys, "hydra.run.dir=mine", "ckpt_path=other/checkpoints/last.ckpt")
    assert "ckpt_path=mine/checkpoints/last.ckpt goes on with its training" in said
    assert len(run("hydra.run.dir=mine", "ckpt_path=mine/checkpoints/last.ckpt")) == 2


@pytest.mark.parametrize(
    "given", [["hydra.run.dir=mine"], ["hydra.run.dir=mine", "ckpt_path=mine/checkpoints/last.ckpt"]]
)
def test_a_folder_that_another_run_writes_into_is_refused(given, run, capsys):
    """The claim of a process ends with it."""
    Path("mine/checkpoints").mkdir(parents=True)
    Path("mine/checkpoints/last.ckpt").touch()
    with Path("mine/.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "hydra.run.dir=mine is in use by another run: give another folder" in refused(run, capsys, *given)
    assert run("hydra.run.dir=mine", "ckpt_path=mine/checkpoints/last.ckpt") == [Path("mine").absolute()]
    with Path("mine/.lock").open("a") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_runs_that_share_questions_share_their_folder(run, capsys):
    given = ["hydra.run.dir=mine", "benchmark=pope", "benchmark.resume=mine"]
    Path("mine").mkdir()
    with Path("mine/.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert run(*given, name="eval") == [Path("mine").absolute()]
        assert "in use by another run" in refused(run, capsys, "hydra.run.dir=mine", name="eval")


def test_further_processes_of_a_run_write_into_its_folder(run, monkeypatch):
    """As a trainer starts them: with the first one's folder."""
    (folder,) = run("seed=1")
    monkeypatch.setattr("learnpruner.cli.run_folder.is_rank_zero", lambda: False)
    assert run(f"hydra.run.dir={folder}", "seed=1") == [folder, folder]
