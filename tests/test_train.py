"""The real train.py on a tiny random LLaVA: every experiment runs, resume is exact, nothing but the pruner is saved."""

import csv
import json
import math
import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import learnpruner
import train
from learnpruner.cli import train_run
from learnpruner.data.datamodule import SceneSource
from learnpruner.data.scenes import write_folder
from learnpruner.evaluation.accuracy_tables import accuracy_table
from learnpruner.evaluation.optimized_metric import numbers
from learnpruner.training.base_module import FrozenBackboneLitModule
from learnpruner.training.loggers import make_wandb_logger
from learnpruner.training.pruner_module import PrunerLitModule
from learnpruner.training.trainer import resolve_precision
from learnpruner.training.validation import HeldOutScores
from tests.offline_run import records, summary
from tests.tiny_folder import tiny_folder

CONF = Path(train.__file__).parent / "conf"
SMALL = [
    "backbone.path=tiny",
    "logger=csv",
    "callbacks.progress=false",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.log_every_n_steps=1",
    "data.images_per_batch=1",
    "data.questions_per_image=2",
    "data.workers=0",
    "prune_ratio=0.2",
    "grad_tokens_per_image=8",
    "benchmark.limit=2",
    "benchmark.num_examples=0",
    "benchmark.baselines_to_run=[random]",
]
JSON = ["data=llava_json", "data.json=json/train.json"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the backbone and a LLaVA-JSON folder of 8 scenes, where the program runs."""
    folder = tmp_path_factory.mktemp("place")
    tiny_folder(folder / "tiny")
    write_folder(folder / "json", "train", 8, questions=3)
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Runs train.py with a command line; returns the folder of the run (of the sweep with -m)."""
    monkeypatch.chdir(place)

    def call(*arguments, steps=1):
        name = f"run{len(list(place.glob('logs/*')))}"
        flags = [one for one in arguments if one.startswith("-")]
        settings = [one for one in arguments if not one.startswith("-")]
        line = ["train.py", *flags, *SMALL, f"trainer.max_steps={steps}", f"name={name}", *settings]
        monkeypatch.setattr(sys, "argv", line)
        train.main()
        (folder,) = place.glob(f"logs/{name}/*/*")
        return folder

    return call


def losses(folder):
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    return [(int(row["step"]), row["loss"]) for row in rows if row.get("loss")]


def weights(folder):
    return load_file(folder / "export" / "model.safetensors")


def overrides(path):
    """What a config needs beside the tiny backbone."""
    if path.parent.name == "experiment" and "llava_json" in path.read_text():
        return ["data.json=json/train.json"]
    return []


@pytest.mark.parametrize(
    "path",
    sorted(
        p for p in [*CONF.glob("experiment/*.yaml"), *CONF.glob("debug/*.yaml")] if p.stem != "kv"
    ),  # tests/kv_eviction has it
    ids=lambda path: f"{path.parent.name}={path.stem}",
)
def test_every_experiment_runs_a_step_and_leaves_its_results(path, run, capsys):
    folder = run(f"{path.parent.name}={path.stem}", *overrides(path))
    out = capsys.readouterr().out.strip().splitlines()
    assert out[-1] == f"results: {folder / 'results.json'}"
    assert any(line.startswith("keeping ") for line in out)
    results = json.loads((folder / "results.json").read_text())
    keys = "plan backbone benchmark samples prune_ratio tokens accuracy unpruned retention baselines versions commit"
    assert set(keys.split()) <= set(results)
    assert set(results["baselines"]) == {"random"}
    assert results["tokens"] == pytest.approx(learnpruner.load(folder / "export").tokens(64, 8))
    assert [step for step, _ in losses(folder)] == [0]


def test_run_folder_holds_everything_and_the_export_is_copied(run, place):
    folder = run("benchmark.num_examples=1")
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "metrics.csv", "checkpoints", "export", "results.json", "report.md", "tokens.png"} <= names
    copy = place / "checkpoints" / f"{folder.parts[-3]}-r0.2-{folder.name}"
    assert (copy / "model.safetensors").read_bytes() == (folder / "export/model.safetensors").read_bytes()


def test_checkpoint_holds_pruner_weights_only_and_is_safe_to_load(run):
    path = run() / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"plan"}
    assert checkpoint["config"]["prune_ratio"] == 0.2
    learned = sum(value.numel() for value in checkpoint["state_dict"].values())
    assert path.stat().st_size < 3 * 4 * learned + 50_000  # weights, two moments of the optimizer, and little else


class Killed(BaseException):
    """Stands for a kill: nothing is saved on the way out."""


@pytest.mark.parametrize("source", [[], JSON], ids=["scenes", "json"])
@pytest.mark.parametrize(("batch", "error"), [(4, KeyboardInterrupt), (5, KeyboardInterrupt), (5, Killed)])
def test_resumed_run_equals_the_uninterrupted_one(source, batch, error, run, monkeypatch):
    settings = [
        "relaxation=gumbel",
        "trainer.accumulate_grad_batches=2",
        "callbacks.checkpoint.every_n_train_steps=1",
        *source,
    ]
    whole = run(*settings, steps=4)

    def stop(self, _, index):
        if index == batch:
            raise error

    with monkeypatch.context() as patch, pytest.raises((SystemExit, Killed)):
        if error is Killed:
            patch.setattr("lightning.pytorch.callbacks.ModelCheckpoint.on_exception", lambda *_: None)
        patch.setattr(FrozenBackboneLitModule, "on_train_batch_start", stop)
        run(*settings, steps=4)
    broken = max(Path("logs").glob("*/runs/*"), key=lambda path: path.stat().st_mtime)
    assert losses(broken) == losses(whole)[: len(losses(broken))]  # what was logged is on disk
    resumed = run(*settings, f"ckpt_path={broken}/checkpoints/last.ckpt", steps=4)
    assert losses(resumed) == [(step, loss) for step, loss in losses(whole) if step >= 2]
    assert len(losses(resumed)) >= 2
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_a_run_that_goes_on_in_its_own_folder_keeps_what_it_had(run, place, monkeypatch):
    settings = ["callbacks.checkpoint.every_n_train_steps=2", "logger=csv"]
    whole = run(*settings, steps=6)

    def stop(self, _, index):
        if index == 5:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("lightning.pytorch.callbacks.ModelCheckpoint.on_exception", lambda *_: None)
        patch.setattr(FrozenBackboneLitModule, "on_train_batch_start", stop)
        run(*settings, steps=6)
    (broken,) = place.glob(f"logs/run{len(list(place.glob('logs/*'))) - 1}/runs/*")
    assert len(losses(broken)) == 5  # one step behind the checkpoint
    line = ["train.py", *SMALL, "trainer.max_steps=6", f"name={broken.parts[-3]}", *settings, f"hydra.run.dir={broken}"]
    monkeypatch.setattr(sys, "argv", [*line, f"ckpt_path={broken}/checkpoints/last.ckpt"])
    train.main()
    assert losses(broken) == losses(whole)
    assert sorted((broken / "metrics.csv").read_text().splitlines()) == sorted(
        (whole / "metrics.csv").read_text().splitlines()
    )
    assert not list(broken.glob("checkpoints/*-v*"))
    assert torch.load(broken / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(broken)[name]), name


def test_a_folder_of_an_earlier_run_keeps_its_results(run, place, finished, capsys):
    before = {path: path.read_bytes() for path in (place / "finished").rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stopped:
        run("hydra.run.dir=finished", "seed=3")
    assert (
        stopped.value.code == 2
        and "hydra.run.dir=finished holds config.yaml of an earlier run" in capsys.readouterr().err
    )
    assert {path: path.read_bytes() for path in (place / "finished").rglob("*") if path.is_file()} == before


def newest():
    """The folder of the run that was started last."""
    return max(Path("logs").glob("*/runs/*"), key=lambda path: path.stat().st_mtime)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_behind_its_step_with_the_shell_s_status(number, status, run, monkeypatch):
    whole, plain, handlers = run(steps=4), PrunerLitModule.training_step, [signal.getsignal(number)]

    def met(self, batch, index):
        if index == 1:
            os.kill(os.getpid(), number)
        return plain(self, batch, index)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(PrunerLitModule, "training_step", met)
        run(steps=4)
    broken = newest()
    assert stopped.value.code == status and signal.getsignal(number) == handlers[0]
    assert losses(broken) == losses(whole)[:2] and not (broken / "export").exists()
    last = broken / "checkpoints/last.ckpt"
    assert f"stopped after step 2; go on with ckpt_path={last.resolve()}" in (broken / "train.log").read_text()
    resumed = run(f"ckpt_path={last}", steps=4)
    assert losses(resumed) == losses(whole)[2:]
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


def test_a_signal_in_the_last_step_leaves_the_export(run, monkeypatch):
    plain = PrunerLitModule.training_step

    def met(self, batch, index):
        if index == 1:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, batch, index)

    monkeypatch.setattr(PrunerLitModule, "training_step", met)
    with pytest.raises(SystemExit) as stopped:
        run(steps=2)
    learnpruner.load(newest() / "export")
    assert stopped.value.code == 143 and "go on with: python eval.py plan=" in (newest() / "train.log").read_text()


@pytest.mark.parametrize("half", [False, True], ids=["between steps", "in the middle of a step"])
def test_a_second_signal_ends_at_once_and_never_saves_half_a_step(half, run, monkeypatch):
    plain, step = PrunerLitModule.training_step, torch.optim.AdamW.step

    def met(self, batch, index):
        if index == 1:
            signal.raise_signal(signal.SIGINT)
            if not half:
                signal.raise_signal(signal.SIGINT)
        return plain(self, batch, index)

    def stepping(self, closure=None):
        loss = step(self, closure)
        if any(float(state["step"]) == 2 for state in self.state.values()):
            signal.raise_signal(signal.SIGINT)  # weights have moved, the learning rate has not
        return loss

    monkeypatch.setattr(PrunerLitModule, "training_step", met)
    if half:
        monkeypatch.setattr(torch.optim.AdamW, "step", stepping)
    with pytest.raises(SystemExit) as stopped:
        run("callbacks.checkpoint.every_n_train_steps=1", steps=4)
    assert stopped.value.code == 130
    assert torch.load(newest() / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 1
    assert "go on with ckpt_path=" in (newest() / "train.log").read_text()


@pytest.fixture(scope="module")
def finished(place):
    """The checkpoint of a run of 2 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        line = ["train.py", *SMALL, "trainer.max_steps=2", "name=finished", "hydra.run.dir=finished"]
        patch.setattr(sys, "argv", line)
        train.main()
    (place / "empty.ckpt").touch()
    (place / "cut.ckpt").write_bytes((place / "finished/checkpoints/last.ckpt").read_bytes()[:2000])
    torch.save({"state_dict": {}}, place / "other.ckpt")
    return "finished/checkpoints/last.ckpt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pruner=visionselector"], "comes from a run with pruner.stages.0"),
        (["prune_ratio=0.3"], "comes from a run with prune_ratio=0.2, not 0.3"),
        (["optimizer=sgd"], "with optimizer._target_=torch.optim.AdamW, not torch.optim.SGD"),
        (["optimizer.lr=1"], "with optimizer.lr=0.002, not 1.0"),
        (["seed=3"], "with seed=0, not 3"),
        (["trainer.max_steps=2"], "at step 2 and trainer.max_steps is 2"),
        (["trainer.max_steps=1"], "at step 2 and trainer.max_steps is 1"),
        (["backbone.path=wide"], "holds weights of another pruner or backbone"),
        (["ckpt_path=json/train.json"], "cannot be read as a checkpoint"),
        (["ckpt_path=finished/export/model.safetensors"], "an export continues with plan="),
        (["ckpt_path=empty.ckpt"], "cannot be read as a checkpoint"),
        (["ckpt_path=cut.ckpt"], "cannot be read as a checkpoint"),
        (["ckpt_path=other.ckpt"], "cannot be read as a checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_sentence_and_stays(arguments, message, run, place, finished, capsys):
    if not (place / "wide").is_dir():
        tiny_folder(place / "wide", width=48)
    before = (place / finished).read_bytes()
    given = [f"ckpt_path={finished}"] * (not arguments[0].startswith("ckpt_path"))
    with pytest.raises(SystemExit) as stopped:
        run(*given, *arguments, steps=3)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(said) == 1 and message in said[0]
    assert (place / finished).read_bytes() == before


def test_weights_that_are_not_finite_end_the_run_and_are_nowhere(run, place, capsys):
    """The first step throws the weights out of what float32 holds; the loss behind it is not finite."""
    with pytest.raises(SystemExit) as stopped:
        run(
            "optimizer=sgd",
            "optimizer.lr=1e38",
            "trainer.gradient_clip_val=0",
            "callbacks.checkpoint.every_n_train_steps=1",
            steps=6,
        )
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(said) == 1 and "not finite" in said[0]
    folder = max(place.glob("logs/*/runs/*"), key=lambda path: path.stat().st_mtime)
    assert not (folder / "export").exists() and not (folder / "results.json").exists()
    for path in folder.rglob("*.ckpt"):
        held = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in held.values())


@pytest.mark.parametrize("settings", [[], ["pruner=visionselector"], ["adapter=projector"]], ids=str)
def test_a_float16_backbone_trains_as_auto_has_it(settings, run):
    folder = run("backbone.dtype=float16", "trainer.precision=auto", *settings, steps=2)
    assert len(losses(folder)) == 2 and all(math.isfinite(float(loss)) for _, loss in losses(folder))


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_a_float16_backbone_under_autocast_of_a_cpu_is_refused(precision, run, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("backbone.dtype=float16", f"trainer.precision={precision}")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(said) == 1
    assert f"trainer.precision={precision} and backbone.dtype=float16 do not go together on a CPU" in said[0]


@pytest.mark.parametrize(
    ("dtype", "asked", "cuda", "found"),
    [
        (torch.float16, "auto", True, "16-mixed"),
        (torch.float16, "32-true", True, "32-true"),
        (torch.float16, "auto", False, "32-true"),
        (torch.float32, "16-mixed", True, "16-mixed"),
        (torch.bfloat16, "32-true", False, "32-true"),
    ],
)
def test_the_precision_fits_the_backbone(dtype, asked, cuda, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert resolve_precision(asked, "auto", dtype) == found


def test_more_steps_continue_a_finished_run(run, finished):
    assert [step for step, _ in losses(run(f"ckpt_path={finished}", steps=3))] == [2]


@pytest.mark.parametrize("which", ["last", "best"])
def test_the_export_has_the_weights_that_are_asked_for(which, run, monkeypatch):
    scores = iter([0.5, 0.9, 0.7])
    monkeypatch.setattr(HeldOutScores, "metrics", lambda self, sums: {"val/retention": next(scores)})
    folder = run(f"export_checkpoint={which}", "trainer.val_check_interval=1", "validation.samples=1", steps=3)
    found = json.loads((folder / "export" / "config.json").read_text())["metrics"]
    assert (found["steps"], round(found["val/retention"], 3)) == {"last": (3, 0.7), "best": (2, 0.9)}[which]
    held = torch.load(folder / "checkpoints" / f"{which}.ckpt", weights_only=True)
    exported = weights(folder)
    kept = {name: value for name, value in held["state_dict"].items() if name.removeprefix("plan.") in exported}
    assert held["global_step"] == found["steps"] and len(kept) == len(exported) > 0
    assert all(torch.equal(value, exported[name.removeprefix("plan.")]) for name, value in kept.items())


def test_without_a_score_the_last_weights_are_exported_with_a_word(run, monkeypatch):
    monkeypatch.setattr(HeldOutScores, "metrics", lambda self, sums: {"val/loss": 1.0})
    folder = run("export_checkpoint=best", "trainer.val_check_interval=1", "validation.samples=1", steps=2)
    assert json.loads((folder / "export" / "config.json").read_text())["metrics"]["steps"] == 2
    assert "no validation gave val/retention: the last weights are exported" in (folder / "train.log").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "set trainer.val_check_interval=0.25"),
        (["trainer.val_check_interval=1", "callbacks.best=false"], "needs callbacks.best"),
    ],
)
def test_the_best_weights_of_a_run_that_keeps_none_are_refused_before_it_trains(
    given, message, run, monkeypatch, capsys
):
    monkeypatch.setattr(train_run, "fit", lambda *_: pytest.fail("trained first"))
    with pytest.raises(SystemExit):
        run("export_checkpoint=best", "validation.samples=1", *given)
    assert message in capsys.readouterr().err


def test_a_failed_start_closes_the_run(run, monkeypatch):
    closed = []
    monkeypatch.setattr("wandb.finish", lambda: closed.append(True))
    with pytest.raises(SystemExit):
        run("trainer.accelerator=nosuch")
    assert closed


def test_a_debug_run_leaves_its_export_in_its_folder(run, place, capsys):
    before = set(place.glob("checkpoints/*"))
    folder = run("debug=fast")
    assert (folder / "export" / "model.safetensors").is_file() and set(place.glob("checkpoints/*")) == before
    assert f"exported: {folder / 'export'}" in capsys.readouterr().out


def test_a_seed_repeats_bit_for_bit(run):
    first, again = (run("relaxation=gumbel", "seed=1", steps=2) for _ in range(2))
    assert losses(first) == losses(again)
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())


@pytest.fixture(scope="module")
def seeded(place):
    """What a run with a seed is about to train, by seed: the module and its data."""
    found = {}

    def caught(trainer, module, data, ckpt_path):
        found[module.seed] = module, data
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(train_run, "fit", caught)
        for seed in (1, 2):
            line = ["train.py", *SMALL, f"seed={seed}", "adapter=lora", f"hydra.run.dir=seed{seed}"]
            patch.setattr(sys, "argv", line)
            with pytest.raises(SystemExit):
                train.main()
    return found


def test_a_seed_draws_the_data(seeded):
    for seed, (_, data) in seeded.items():
        source, expected = data.batches.source, SceneSource("train", 2, seed).sample(3)
        assert source.sample(3).turns == expected.turns and source.sample(3).image == expected.image
    assert len({data.batches.source.sample(3).image.tobytes() for _, data in seeded.values()}) == 2


@pytest.mark.parametrize("part", ["stages", "adaptation"])
def test_a_seed_draws_the_weights_that_training_starts_from(part, seeded):
    one, other = (dict(getattr(module.plan, part).named_parameters()) for module, _ in seeded.values())
    drawn = [name for name, value in one.items() if value.std() > 0]
    assert drawn and all(not torch.equal(one[name], other[name]) for name in drawn if one[name].ndim > 1)


def test_a_seed_draws_the_noise_of_each_step(seeded):
    draws = []
    for module, _ in seeded.values():
        with module.step_randomness():
            draws.append(torch.randn(4))
    assert not torch.equal(*draws)


def test_training_continues_from_an_export(run):
    first = run(steps=2)
    second = run(f"plan={first}/export")
    assert json.loads((second / "results.json").read_text())["prune_ratio"] == 0.2
    assert any(not torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


def test_sweep_leaves_a_folder_and_a_closed_run_a_job_and_a_table(run, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", "none")
    folder = run("-m", "prune_ratio=0.2,0.4", "logger=wandb", "logger.wandb.mode=auto")
    jobs = [folder / "0", folder / "1"]
    for job in jobs:
        assert (job / "results.json").is_file() and (job / "export" / "model.safetensors").is_file()
        assert len(list(job.glob("wandb/offline-run-*/*.wandb"))) == 1
    table = (folder / "sweep.md").read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines() if line.startswith("|")]
    assert [line for line in lines if "-" not in line[0]] == [["job", "prune_ratio"], ["0", "0.2"], ["1", "0.4"]]
    said = capsys.readouterr().out
    assert "python -m learnpruner.comparison.compare_exports logs/" in said and said.count("/export") >= 2
    assert [row["folder"] for row in json.loads((folder / "sweep.json").read_text())] == ["0", "1"]
    assert (folder / "sweep.png").stat().st_size > 1000
    assert "wandb sync" in (jobs[0] / "train.log").read_text()


def test_broken_records_are_skipped_and_listed(run, place):
    records = json.loads((place / "json/train.json").read_text())
    records[3]["conversations"] = records[3]["conversations"][:1]
    (place / "json/broken.json").write_text(json.dumps(records))
    folder = run("data=llava_json", "data.json=json/broken.json", steps=2)
    assert [json.loads(line)["id"] for line in (folder / "skipped.jsonl").read_text().splitlines()] == ["train-000003"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backbone.path=nowhere"], "No backbone at 'nowhere'"),
        (["plan=nowhere"], "No plan at 'nowhere'"),
        (["pruner=random"], "no weights to train"),
        (["data=llava_json", "data.json=nowhere.json"], "nowhere.json is missing"),
        (["data.split=nothing"], "split is 'nothing'"),
        (["prune_ratio=0.001"], "prune_ratio"),
        (["loss.kl.weight=0"], "no term to learn from"),
    ],
)
def test_what_is_found_out_later_is_still_one_sentence(arguments, message, run, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(said) == 1 and message in said[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["benchmark.limit=0"],
        ["benchmark.baselines_to_run=[nothing]"],
        ["+benchmark.baselines.other=nothing", "benchmark.baselines_to_run=null"],
    ],
)
def test_a_benchmark_that_cannot_run_is_refused_before_training(arguments, run, place, monkeypatch):
    monkeypatch.setattr(train_run, "make_trainer", lambda *_: pytest.fail("trained first"))
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2


@pytest.fixture
def no_key(monkeypatch):
    """W&B as on a machine without an account, with a name and a key that must not be told."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "none")
    monkeypatch.setenv("USER", "somebody-in-particular")


def test_the_results_are_in_the_wandb_run(run, no_key):
    folder = run("logger=wandb", "benchmark.num_examples=1")
    found, result = summary(folder), json.loads((folder / "results.json").read_text())
    assert {"results.unpruned.mean", "results.baselines.random.tokens.averaged"} <= set(found)
    assert dict(numbers(result, "results")).items() <= found.items()
    assert found["pictures/tokens/_type"] == "image-file" and found["results/_type"] == "table-file"
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/*.json")
    assert json.loads(table.read_text())["columns"] == accuracy_table(result)[0]
    assert json.loads(table.read_text())["data"] == accuracy_table(result, "learnpruner")[1:]


@pytest.mark.parametrize("variable", ["WANDB_MODE=disabled", "WANDB_DISABLED=true"])
@pytest.mark.parametrize("mode", ["auto", "offline"])
def test_wandb_that_is_turned_off_writes_nothing(variable, mode, run, no_key, monkeypatch, tmp_path):
    monkeypatch.setenv(*variable.split("="))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    folder = run("logger=wandb", f"logger.wandb.mode={mode}")
    assert (folder / "metrics.csv").is_file() and (folder / "results.json").is_file()
    assert not list(folder.glob("wandb*")) and not list(tmp_path.iterdir())
    assert "W&B" not in (folder / "train.log").read_text()


def test_what_leaves_the_machine_does_not_say_where_things_lie_on_it(run, place, no_key, tmp_path):
    """Settings, also those with absolute paths, reach exports, cards, results and W&B by name alone."""
    elsewhere = tmp_path / "somebody-in-particular"
    shutil.copytree(place / "tiny", elsewhere / "model")
    shutil.copytree(place / "json", elsewhere / "json")
    folder = run(
        "logger=wandb", "data=llava_json", f"data.root={elsewhere}/json", "data.json=train.json", "adapter=lora",
        f"backbone.path={elsewhere}/model", "benchmark.num_examples=1",
    )  # fmt: skip
    texts = {path.name: path.read_text() for path in folder.glob("export/**/*") if path.suffix in (".json", ".md")}
    assert {"config.json", "adapter_config.json", "README.md"} <= set(texts)
    texts |= {name: (folder / name).read_text() for name in ("results.json", "report.md")}
    for record in records(folder):
        if record.WhichOneof("record_type") != "artifact":  # of which no local path is uploaded
            texts[f"W&B {record.num}"] = str(record)
    for name, text in texts.items():
        for told in (
            "somebody-in-particular",
            str(place),
            str(tmp_path),
            str(Path.home()),
            socket.gethostname(),
            "/usr",
        ):
            assert not re.search(rf"(?<![\w-]){re.escape(told)}(?![\w-])", text), (name, told)
    assert json.loads(texts["config.json"])["backbone"]["name"] == "model"
    assert "backbone.path=model" in texts["README.md"]
    again = run(f"plan={folder}/export", f"backbone.path={elsewhere}/model")
    assert json.loads((again / "results.json").read_text())["backbone"] == "model"


def test_wandb_without_network_goes_offline(place, monkeypatch, caplog):
    from lightning.pytorch.loggers import WandbLogger

    class Unreachable(WandbLogger):
        @property
        def experiment(self):
            if not self._offline:
                raise ConnectionError("no route to host")

    monkeypatch.setattr("learnpruner.training.loggers.WandbLogger", Unreachable)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert make_wandb_logger(place, "test", {})._offline
    assert "no route to host" in caplog.text


OUTSIDE = """
from learnpruner.kv_eviction.policies.trimkv import TrimKV
from learnpruner.pruners.learnpruner import LearnedPruner
class Own(LearnedPruner): ...
class Gates(TrimKV): ...
"""


def test_a_pruner_of_another_package_is_trained_evaluated_and_allowed_by_name(run, place, monkeypatch, capsys):
    (place / "site/outsider").mkdir(parents=True)
    (place / "site/outsider/__init__.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(place / "site"))
    folder = run("pruner=learnpruner_stage1", "pruner.stages.0.pruner._target_=outsider.Own")
    assert json.loads((folder / "results.json").read_text())["samples"] == 2
    with pytest.raises(SystemExit):
        run(f"plan={folder}/export")
    assert "where you trust outsider, load it with" in capsys.readouterr().err
    again = run(f"plan={folder}/export", "allow=[outsider]")
    assert json.loads((again / "results.json").read_text())["samples"] == 2


RELATIVES = ["dynamic_llava", "dynamic_llava_layer2", "visionselector", "diffprune", "evocomp"]


@pytest.mark.parametrize("name", RELATIVES)
def test_learned_relatives_train_resume_and_reload(name, run, monkeypatch):
    settings = [f"pruner={name}", "callbacks.checkpoint.every_n_train_steps=1"]
    whole = run(*settings, steps=3)

    def stop(self, _, index):
        if index == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(FrozenBackboneLitModule, "on_train_batch_start", stop)
        run(*settings, steps=3)
    broken = max(Path("logs").glob("*/runs/*"), key=lambda path: path.stat().st_mtime)
    last = broken / "checkpoints" / "last.ckpt"
    before = torch.load(last, weights_only=True)["state_dict"]
    assert {key.split(".")[0] for key in before} == {"plan"}
    assert any(not torch.equal(value, before[f"plan.{key}"]) for key, value in weights(whole).items())
    resumed = run(*settings, f"ckpt_path={last}", steps=3)
    assert losses(resumed) == losses(whole)[2:] and len(losses(resumed)) == 1
    for key, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[key]), key
    plan = learnpruner.load(whole / "export")
    assert all(torch.equal(value, weights(whole)[key]) for key, value in plan.state_dict().items())
    again = plan.save(whole / "again")
    assert (again / "model.safetensors").read_bytes() == (whole / "export" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("setting", ["trainer.accelerator=nosuch", "trainer.accelerator=tpu", "trainer.devices=-1"])
def test_a_device_that_is_not_there_is_one_sentence(setting, run, capsys):
    with pytest.raises(SystemExit):
        run(setting)
    said = capsys.readouterr().err
    assert "error: trainer.accelerator=" in said and "is refused" in said
