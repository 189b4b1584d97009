"""A sweeper that searches gets what a run found, nan of one that failed; the W&B run keeps the export."""

import json
import math
import sys
from typing import ClassVar

import pytest
from hydra.core.utils import JobStatus
from hydra.plugins.sweeper import Sweeper

import train
from learnpruner.comparison import compare_exports
from tests.offline_run import records
from tests.tiny_folder import tiny_folder

SETTINGS = """backbone.path=tiny callbacks.progress=false trainer.accelerator=cpu trainer.precision=32-true trainer.max_steps=1
data.images_per_batch=1 data.questions_per_image=2 data.workers=0 grad_tokens_per_image=8 benchmark.limit=2 benchmark.num_examples=0
benchmark.baselines_to_run=[] publish_export=false""".split()


class Asking(Sweeper):
    """Stands in for one that searches: tries each value of the settings that it is given, and notes what it is told."""

    found: ClassVar[list] = []

    def setup(self, *, hydra_context, task_function, config):
        from hydra.core.plugins import Plugins

        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        ((key, values),) = [one.split("=") for one in arguments if "," in one]
        fixed = [one for one in arguments if "," not in one]
        jobs = [[*fixed, f"{key}={value}"] for value in values.split(",")]
        Asking.found = self.launcher.launch(jobs, initial_job_idx=0)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_folder(tmp_path / "tiny")
    return tmp_path


def test_a_sweeper_is_told_each_runs_metric_and_nan_of_one_that_failed(place, monkeypatch, capsys):
    from hydra._internal import hydra as within

    monkeypatch.setattr(within.Plugins, "instantiate_sweeper", lambda self, **given: set_up(**given))

    def set_up(**given):
        (sweeper := Asking()).setup(**given)
        return sweeper

    line = ["train.py", "-m", *SETTINGS, "logger=csv", "hydra.sweep.dir=sweep", "optimized_metric=accuracy.mean"]
    monkeypatch.setattr(sys, "argv", [*line, "prune_ratio=0.2,0.00001,0.4"])
    with pytest.raises(SystemExit):  # as some job was refused
        train.main()
    assert [one.status for one in Asking.found] == [JobStatus.COMPLETED] * 3
    told = [one.return_value for one in Asking.found]
    assert math.isnan(told[1]) and not (place / "sweep/1/results.json").exists()
    for job in (0, 2):
        assert told[job] == json.loads((place / f"sweep/{job}/results.json").read_text())["accuracy"]["mean"]


def test_exports_of_a_sweep_are_named_by_what_varied(place, monkeypatch, capsys):
    published = [word for word in SETTINGS if not word.startswith("publish_export")]
    line = ["train.py", "-m", *published, "logger=csv", "name=try", "prune_ratio=0.2", "seed=1,2", "optimizer.lr=1e-3"]
    monkeypatch.setattr(sys, "argv", line)
    train.main()
    (sweep,) = place.glob("logs/try/sweeps/*")
    names = {f"try-r0.2-seed={seed}-{sweep.name}-{job}" for job, seed in enumerate((1, 2))}
    assert {path.name for path in place.glob("checkpoints/*")} == names
    for seed in (1, 2):
        (card,) = place.glob(f"checkpoints/*seed={seed}*/README.md")
        assert f"seed={seed} " in card.read_text() and f"seed={3 - seed}" not in card.read_text()
    exports = [str(sweep / job / "export") for job in "01"]
    capsys.readouterr()
    compare_exports.main([*exports, "--backbone", "tiny", "--limit", "2", "--out", "compared"])
    said = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in said[2:5]] == ["unpruned", "seed=1", "seed=2"]


def test_the_wandb_run_keeps_the_export(place, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    line = ["train.py", *SETTINGS, "logger=wandb", "logger.wandb.mode=offline", "hydra.run.dir=run", "prune_ratio=0.2"]
    monkeypatch.setattr(sys, "argv", line)
    train.main()
    kept = [one.artifact for one in records(place / "run") if one.WhichOneof("record_type") == "artifact"]
    (export,) = [one for one in kept if one.type == "model"]
    files = {one.path for one in export.manifest.contents}
    assert files == {path.name for path in (place / "run/export").iterdir()}
