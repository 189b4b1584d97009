"""Bad input: one clear sentence, exit code 2, no stack trace; good input: typed values."""

import errno
import logging
import os
import sys
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch._utils import ExceptionWrapper

from learnpruner.cli.main import hydra_main
from learnpruner.cli.start import prepare_run
from learnpruner.config.data import LlavaJsonConfig
from learnpruner.config.train_config import TrainConfig
from learnpruner.core.budget import check_ratio
from learnpruner.evaluation import table_format as report
from learnpruner.utils.errors import UserError
from learnpruner.utils.io import write_json

CONF = Path(__file__).parents[2] / "conf"


def in_a_worker():
    """A data worker's error as the training loop meets it."""
    try:
        check_ratio(7)
    except UserError:
        ExceptionWrapper(where="in DataLoader worker process 0").reraise()


UNEVEN = [["name"], ["one", "too many"]]
INSIDE = {  # seed -> what happens inside the program
    13: [lambda: {}["a bug"]],
    14: [lambda: report.text_table(UNEVEN)],
    15: [lambda: instantiate({"_target_": "learnpruner.evaluation.table_format.text_table", "cells": UNEVEN})],
    16: [lambda: write_json(1, Path("nowhere/results.json"))],
    17: [lambda: instantiate({"_target_": "torch.optim.AdamW", "lr": -1, "params": [torch.zeros(1)]})],
    18: [in_a_worker],
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the program's entry with a command line; returns the configs that reached the task."""
    monkeypatch.chdir(tmp_path)
    reached = []

    def task(config, folder):
        for happens in INSIDE.get(config.seed, ()):
            happens()
        reached.append((config, folder))

    def call(*arguments, name="train"):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        hydra_main(CONF, name)(task)()
        return reached

    return call


BAD = {
    "unknown key": (["prune_ration=0.1"], "prune_ration is no setting; did you mean prune_ratio?"),
    "unknown key, added": (["+prune_ration=0.1"], "prune_ration is no setting; did you mean prune_ratio?"),
    "unknown nested key": (["+trainer.max_step=1"], "trainer.max_step is no setting; did you mean trainer.max_steps?"),
    "key of another source": (["data.json=x"], "data.json is no setting"),
    "wrong type": (["prune_ratio=abc"], "prune_ratio is 'abc'; it must be a number."),
    "wrong whole number": (["data.images_per_batch=1.5"], "data.images_per_batch is 1.5; it must be a whole number."),
    "ratio 0": (["prune_ratio=0"], "above 0 and at most 1"),
    "ratio 1.5": (["prune_ratio=1.5"], "above 0 and at most 1"),
    "ratio nan": (["prune_ratio=nan"], "above 0 and at most 1"),
    "no such config": (
        ["data=nothing"],
        "data=nothing does not exist; choose one of llava_558k, llava_665k, llava_instruct_vsft, llava_json, llava_onevision_data, scenes.",
    ),
    "missing value": (["data=llava_json"], "data.json must be given: data.json=..."),
    "out of range": (["data.images_per_batch=0"], "data.images_per_batch is 0; it must be 1 or more."),
    "negative weight": (["loss.kl.weight=-1"], "loss.kl.weight is -1; it must be 0 or more."),
    "unknown choice": (["trainer.precision=bf17"], "trainer.precision is 'bf17'; it must be one of"),
    "share out of range": (["scheduler.warmup=2"], "scheduler.warmup is 2; it is a share between 0 and 1."),
    "null": (["loss.kl.weight=null"], "loss.kl.weight is null; it must be a number."),
    "part of null": (["backbone.shape.x=1"], "backbone.shape.x sets a part of what is null"),
    "endless questions": (["data.questions_per_image=10000000"], "10000000; it must be 1000 or less"),
    "endless rate": (["optimizer.lr=inf"], "optimizer.lr is inf; it must be a finite number."),
    "checkpoint that is a folder": (["ckpt_path=."], "ckpt_path=. is a folder; it must be a checkpoint of a run"),
    "root of public data": (["data=llava_665k"], "data.root must be given: data.root=..."),
    "root of captions": (["data=llava_558k"], "data.root must be given: data.root=..."),
    "part of public data": (["data=llava_onevision_data"], "data.config must be given: data.config=..."),
    "no benchmark": (["~benchmark"], "benchmark must be given: benchmark=..."),
    "no pruner": (["~pruner"], "pruner must be given: pruner=..."),
    "no data": (["~data"], "data must be given: data=..."),
    "two pruners": (["pruner=[random,cls]"], "pruner=[random,cls] names several configs, of which a run takes one"),
    "gates beside an adapter": (["experiment=kv", "adapter=lora"], "adapter= and kv_eviction= are both given"),
    "gates on a plan": (["experiment=kv", "plan=x"], "plan=x and kv_eviction= are both given"),
    "gates without their benchmark": (["kv_eviction=trimkv"], "kv_eviction= needs benchmark=kv"),
    "several at once": (
        ["optimizer.lr=-1", "trainer.max_steps=0"],
        "optimizer.lr is -1; it must be 0 or more.",
        "trainer.max_steps is 0; it must be 1 or more.",
    ),
    "a key of a part": (["lr=1"], "lr is no setting; did you mean optimizer.lr or adapter.lr?"),
    "a key of the trainer": (["max_steps=1"], "max_steps is no setting; did you mean trainer.max_steps?"),
    "name of the folder above": (["name=.."], "name is '..'; it names the run's folder"),
    "name of the folder itself": (["name=."], "name is '.'; it names the run's folder"),
    "no UTF-8": (["name=\udcff"], "is not UTF-8; type it in UTF-8, or rename the file."),
    "grammar": (["seed=(1"], "seed=(1 cannot be read"),
    "no equals sign": (["seed"], "seed cannot be read"),
    "plan and pruner": (["plan=x", "pruner=random"], "plan=x and pruner= are both given"),
    "missing checkpoint": (["ckpt_path=none.ckpt"], "ckpt_path=none.ckpt is missing"),
    "devices": (["trainer.devices=[0,1]"], "trainer.devices is [0, 1]"),
    "sweep on two devices": (
        ["-m", "trainer.devices=2", "prune_ratio=0.1,0.2"],
        "-m with trainer.devices=2 is refused",
    ),
    "adapter of rank 0": (["adapter=lora", "adapter.r=0"], "adapter.r is 0; it must be 1 or more."),
    "adapter without scale": (["adapter=lora", "adapter.alpha=0"], "adapter.alpha is 0; it must be above 0."),
    "adapter's dropout": (["adapter=lora", "adapter.dropout=1"], "adapter.dropout is 1; it must be below 1."),
    "adapter's targets": (["adapter=lora", "adapter.target_modules='('"], "is no regular expression"),
    "adapter's learning rate": (["adapter=projector", "adapter.lr=-1"], "adapter.lr is -1; it must be 0 or more."),
    "learning rate of no adapter": (["adapter.lr=0.1"], "adapter.lr is 0.1, but nothing is adapted"),
    "rank of the projector": (["adapter=projector", "adapter.r=8"], "adapter.r is no setting"),
    "earlier name of the baselines to run": (
        ["benchmark.beside=[]"],
        "benchmark.beside is called benchmark.baselines_to_run now: write benchmark.baselines_to_run in its place.",
    ),
    "earlier name of the examples": (["benchmark.looks=0"], "benchmark.looks is called benchmark.num_examples now"),
    "earlier name of the exports' place": (
        ["benchmark.trained=x"],
        "write benchmark.export_pattern in its place; with benchmark=kv give +benchmark.exports.NAME=FOLDER.",
    ),
    "earlier name of the eviction": (["kv=trimkv"], "kv is called kv_eviction now: write kv_eviction in its place."),
    "earlier name of a setting of the eviction": (
        ["experiment=kv", "kv.every=8"],
        "kv.every is called kv_eviction.evict_interval now",
    ),
    "earlier name of the interval": (
        ["experiment=kv", "benchmark.every=8"],
        "benchmark.every is called benchmark.evict_interval now",
    ),
    "earlier name of the data's fraction": (["data.share=0.5"], "data.share is called data.fraction now"),
    "earlier name of a stage's share": (
        ["pruner.stages.0.share=2"],
        "pruner.stages.0.share is called pruner.stages.0.token_share now",
    ),
    "earlier name of a benchmark's budgets": (
        ["benchmark=speed", "benchmark.ratios=[0.5]"],
        "benchmark.ratios is called benchmark.prune_ratios now",
    ),
    "comparison after training": (["benchmark=peers"], "benchmark=compare_methods compares many plans"),
    "sweep without -m": (["prune_ratio=0.1,0.2"], "prune_ratio"),
    "measurement after training": (["benchmark=heads"], "run eval.py plan=none benchmark=heads"),
    "no plan to train": (["plan=none"], "plan=none keeps all tokens and has nothing to train"),
    "empty plan": (["plan="], "plan is empty"),
    "large seed": (["seed=4294967296"], "seed is 4294967296; it must be 0 or more, and at most 4294967295."),
    "no name": (["name="], "name is ''"),
    "name of a folder in a folder": (["name=../x"], "name is '../x'; it names the run's folder"),
    "negative batch": (["data.images_per_batch=-4"], "data.images_per_batch is -4; it must be 1 or more."),
    "no steps": (["trainer.max_steps=0"], "trainer.max_steps is 0; it must be 1 or more."),
    "negative workers": (["data.workers=-1"], "data.workers is -1; it must be 0 or more."),
    "null for a group": (["pruner=null"], "a group of configs takes a name"),
    "unknown argument of a benchmark": (
        ["+benchmark.limt=7"],
        "benchmark.limt is no setting; did you mean benchmark.limit?",
    ),
    "unknown argument of a data set": (["+benchmark.dataset.sed=7"], "did you mean benchmark.dataset.seed?"),
    "unknown argument in a list": (
        ["+pruner.stages.0.pruner.diversty=1"],
        "did you mean pruner.stages.0.pruner.diversity?",
    ),
    "unknown class": (["optimizer._target_=torch.optim.No"], "optimizer._target_ is 'torch.optim.No', which cannot"),
    "unwritable folder": (["hydra.run.dir=/dev/null/run"], "/dev/null/run cannot be written (Not a directory)"),
    "unwritable folder of a sweep": (
        ["-m", "seed=1,2", "hydra.sweep.dir=/dev/null/run"],
        "/dev/null/run cannot be written (Not a directory)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(case, run, capsys):
    arguments, *messages = BAD[case]
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2
    assert len(said) == len(messages) and all(map(str.__contains__, said, messages))


def test_a_budget_for_the_unpruned_model_is_refused(run, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("plan=none", "prune_ratio=0.1", name="eval")
    assert (
        stopped.value.code == 2 and "error: plan=none keeps all tokens and prune_ratio=0.1" in capsys.readouterr().err
    )


def test_the_switch_of_a_sweep_may_stand_anywhere(run):
    run("seed=1,2", "-m", "prune_ratio=0.1")
    assert len(list(Path("logs/train/sweeps").glob("*/*/config.yaml"))) == 2


def test_a_full_disk_is_one_sentence(run, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "config.yaml")

    monkeypatch.setattr("learnpruner.cli.start.OmegaConf.save", full)
    with pytest.raises(SystemExit):
        run("seed=1")
    assert "error: config.yaml cannot be written or read: No space left on device" in capsys.readouterr().err


def test_a_picture_of_the_unpruned_model_is_refused(run, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("plan=none", "image=x.png", "question=what", name="eval")
    assert stopped.value.code == 2 and "error: plan=none keeps all tokens" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["prune_ratio=2"], ["backbone.shape.x=1"], ["no_key=1"], ["data=nothing"]])
def test_a_refused_command_says_one_sentence_and_no_more(run, capsys, arguments):
    with pytest.raises(SystemExit):
        run(*arguments)
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and len(said.err.splitlines()) == 1


def test_hugging_face_does_not_tell_of_each_attempt_to_connect(run, capsys, monkeypatch):
    def offline(*arguments):
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        return prepare_run(*arguments)

    monkeypatch.setattr("learnpruner.cli.main.prepare_run", offline)
    with pytest.raises(SystemExit):
        run("prune_ratio=2")
    said = capsys.readouterr()
    assert "Retrying" not in said.out + said.err


@pytest.mark.parametrize("asked", [None, "0"])
def test_processes_that_a_run_starts_see_the_user_s_wish_for_stack_traces(run, monkeypatch, asked):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if asked is not None:
        monkeypatch.setenv("HYDRA_FULL_ERROR", asked)
    seen = []
    monkeypatch.setattr(
        "learnpruner.cli.main.prepare_run", lambda *_: seen.append(os.environ.get("HYDRA_FULL_ERROR")) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        run("prune_ratio=0.2")
    assert seen == [asked] and os.environ.get("HYDRA_FULL_ERROR") == asked


def test_a_stack_trace_is_there_for_those_who_ask(run, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="above 0"):
        run("prune_ratio=2")


@pytest.mark.parametrize(
    ("seed", "error"), [(13, KeyError), (14, ValueError), (15, InstantiationException), (16, FileNotFoundError)]
)
def test_a_bug_is_not_dressed_up_as_a_user_error(seed, error, run, capsys):
    """Even where the package's own line raises it, as zip and int do."""
    with pytest.raises(error):
        run(f"seed={seed}")
    assert "error: " not in capsys.readouterr().err


@pytest.mark.parametrize(("seed", "message"), [(17, "Invalid learning rate: -1"), (18, "prune_ratio=7 is refused")])
def test_what_is_the_user_s_to_mend_is_a_sentence_wherever_it_is_found(seed, message, run, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(f"seed={seed}")
    said = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and said.startswith(f"error: {message}")


def test_a_failing_job_does_not_stop_the_sweep(run, capsys):
    with pytest.raises(SystemExit):
        run("-m", "prune_ratio=2,0.1,0.2")
    assert len(list(Path("logs/train/sweeps").glob("*/*/config.yaml"))) == 2
    assert "prune_ratio=2.0" in capsys.readouterr().err


def test_the_task_gets_checked_values_and_a_dated_folder(run):
    ((config, folder),) = run("prune_ratio=0.11", "data=llava_json", "data.json=x", "trainer.devices=auto")
    assert isinstance(config, TrainConfig) and isinstance(config.data, LlavaJsonConfig)
    assert config.prune_ratio == 0.11 == config.pruner["prune_ratio"]
    assert folder.parent == Path("logs/train/runs").absolute()
    assert "prune_ratio: 0.11" in (folder / "config.yaml").read_text()
    assert "${" not in (folder / "config.yaml").read_text()


def test_an_export_brings_its_own_ratio_unless_told(run):
    (first, _), *_ = run("plan=x")
    (second, _) = run("plan=x", "prune_ratio=0.2")[-1]
    assert first.prune_ratio is None and second.prune_ratio == 0.2


NEEDED = {  # settings without a default
    "data/llava_json": ["data.json=x"],
    "data/llava_558k": ["data.root=x"],
    "data/llava_665k": ["data.root=x"],
    "data/llava_onevision_data": ["data.config=x"],
    "experiment/llava15": ["data.json=x"],
    "benchmark/own": ["benchmark.file=x.csv"],
    "kv_eviction/trimkv": ["benchmark=kv"],
    "kv_eviction/make_each_token_count": ["benchmark=kv"],
}


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_config_composes(path, run):
    group, choice = path.parent.name, path.stem
    sweep = ["-m"] if group == "hparams" else []
    if group == "benchmark" and choice in ("heads", "speed", "peers", "compare_methods"):
        pytest.skip("a task of eval.py alone")
    ((config, _), *_) = run(*sweep, f"{group}={choice}", *NEEDED.get(f"{group}/{choice}", ()))
    assert isinstance(config, TrainConfig)


def test_the_earlier_name_of_the_comparison_gives_the_same(run):
    run("benchmark=compare_methods", name="eval")
    (new, _), (old, _) = run("benchmark=peers", name="eval")
    assert new.benchmark == old.benchmark and new.benchmark["export_pattern"]


REFUSED_BY_EVAL = {
    "blank question": (["question= \t", "image=x.png"], "question= is blank"),
    "blank image": (["question=what?", "image="], "image= is blank"),
    "a device without values": (["device=meta"], "device=meta holds no weights to compute with"),
    "no benchmark": (["~benchmark"], "benchmark must be given: benchmark=..."),
    "no backbone": (["~backbone"], "backbone must be given: backbone=..."),
    "a mapping for a config": (
        ["pruner={_target_: learnpruner.plan.Plan}"],
        "is no name: write it into a config, such as conf/pruner/mine.yaml",
    ),
    "two pruners": (["pruner=[random,cls]"], "-m pruner=random,cls runs one after the other"),
}


@pytest.mark.parametrize("case", REFUSED_BY_EVAL)
def test_bad_input_of_eval_is_one_sentence(case, run, capsys):
    arguments, message = REFUSED_BY_EVAL[case]
    with pytest.raises(SystemExit) as stopped:
        run(*arguments, name="eval")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(said) == 1 and message in said[0]


@pytest.mark.parametrize("name", ["..", ".", "../x", ""])
def test_a_run_is_never_written_beside_the_runs(run, tmp_path, name):
    with pytest.raises(SystemExit):
        run(f"name={name}")
    assert not list(tmp_path.rglob("*.yaml"))


YAML = {
    "cut short": (b"path: [x\nb: {", "mine.yaml, line 2: no valid YAML"),
    "tabs": (b"path:\n\t- x", "mine.yaml, line 2: no valid YAML"),
    "no such anchor": (b"path: *nope", "mine.yaml, line 1: no valid YAML"),
    "control characters": (b"path: \x00", "mine.yaml: no valid YAML"),
    "no UTF-8": (b"path: \xff\xfe", "no valid YAML"),
    "nested without end": (b"path: " + b"[" * 5000, "no valid YAML"),
    "a list": (b"- a", "a config is a mapping of settings, not a list."),
    "an interpolation of nothing": (b"path: ${nothing}", "interpolation key 'nothing' not found"),
}


@pytest.mark.parametrize("case", YAML)
def test_a_broken_config_is_one_sentence(case, run, tmp_path, capsys):
    content, message = YAML[case]
    (tmp_path / "own/backbone").mkdir(parents=True)
    (tmp_path / "own/backbone/mine.yaml").write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        run(f"--config-dir={tmp_path / 'own'}", "backbone=mine", name="eval")
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(said) == 1 and said[0].startswith("error: ") and message in said[0]
