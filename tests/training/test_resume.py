"""A run goes on from `ckpt_path=` alone as it began; what would change its losses is refused, whatever it is called."""

import copy
import csv
import io
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from learnpruner.data.scenes import write_folder
from learnpruner.kv_eviction.lit_module import KVGateLitModule
from learnpruner.plan import Plan, Stage
from learnpruner.pruners.learnpruner import LearnedPruner
from learnpruner.training.pruner_module import PrunerLitModule
from learnpruner.training.resume_checks import read_checkpoint, setting_differences, unbound_settings
from learnpruner.utils.errors import UserError
from learnpruner.utils.io import atomic_write, write_json
from tests.tiny_folder import tiny_folder
from tests.training_run import start

QUIET = [
    "logger=csv",
    "callbacks.progress=false",
    "trainer.accelerator=cpu",
    "benchmark.limit=2",
    "benchmark.num_examples=0",
]
OTHER = """backbone.path=tiny pruner=visionselector optimizer.lr=0.0008 trainer.max_steps=4 data=llava_json data.json=json/train.json
data.images_per_batch=1 data.questions_per_image=2 trainer.precision=32-true trainer.log_every_n_steps=1 scheduler.floor=0.5 seed=3
prune_ratio=0.3 callbacks.checkpoint.every_n_train_steps=1 benchmark.baselines_to_run=[]""".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    tiny_folder(folder / "tiny")
    tiny_folder(folder / "twin", seed=1)
    write_folder(folder / "json", "train", 8, questions=3)
    shutil.copytree(folder / "tiny", folder / "moved/tiny")
    shutil.copytree(folder / "json", folder / "moved/json")
    shutil.copytree(folder / "json", folder / "changed/json")
    records = json.loads((folder / "json/train.json").read_text())
    records[3]["conversations"][1]["value"] += " indeed"
    (folder / "changed/json/train.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def whole(place):
    """A run of four steps whose settings are not the defaults."""
    return start(place, "whole", *QUIET, *OTHER)


@pytest.fixture(scope="module")
def cut(place, whole):
    """The same run, which ended before its third step."""
    return stopped_early(place, "cut", *QUIET, *OTHER)


def stopped_early(place, name, *settings):
    """The checkpoint of a run that ends before its third step."""

    def stop(self, _, index):
        if index == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        for kind in (PrunerLitModule, KVGateLitModule):
            patch.setattr(kind, "on_train_batch_start", stop)
        start(place, name, *settings)
    return f"runs/{name}/checkpoints/last.ckpt"


def losses(folder):
    rows = csv.DictReader((folder / "metrics.csv").open())
    return [(int(row["step"]), row["loss"]) for row in rows if row.get("loss")]


def refused(place, capsys, *settings):
    """The one sentence that a command ends with."""
    with pytest.raises(SystemExit) as stopped:
        start(place, f"refused{len(list(place.glob('runs/refused*')))}", *QUIET, *settings)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(said) == 1
    return said[0]


def edited(place, cut, change, name="edited.ckpt"):
    """A copy of the checkpoint, changed."""
    held = torch.load(place / cut, weights_only=True)
    change(held)
    (place / "edited").mkdir(exist_ok=True)
    torch.save(held, place / "edited" / name)
    return f"ckpt_path=edited/{name}"


def test_the_checkpoint_alone_is_enough(place, whole, cut):
    resumed = start(place, "alone", f"ckpt_path={cut}")
    assert losses(resumed) == losses(whole)[2:] and len(losses(resumed)) == 2
    for name, value in load_file(whole / "export/model.safetensors").items():
        assert torch.equal(value, load_file(resumed / "export/model.safetensors")[name]), name
    before, after = (OmegaConf.load(folder / "config.yaml") for folder in (whole, resumed))
    assert after.pop("ckpt_path") == cut and before.pop("ckpt_path") is None
    assert after.data.pop("skipped") == str(resumed / "skipped.jsonl")
    before.data.pop("skipped")
    assert after == before
    assert [(folder / "report.md").read_text().count("| visionselector |") for folder in (whole, resumed)] == [1, 1]


ALSO = {
    "gates": """experiment=kv backbone.path=tiny data.questions_per_image=3 benchmark.batch_size=2 benchmark.source.questions=3
    benchmark.budgets=[12] benchmark.baselines_to_run=[recent] benchmark.limit=2""",
    "an export and LoRA": """plan=runs/whole/export adapter=lora backbone.path=tiny data.questions_per_image=2 grad_tokens_per_image=8
    benchmark.baselines_to_run=[] benchmark.limit=2 benchmark.num_examples=0""",
}
FEW = """logger=csv callbacks.progress=false trainer.accelerator=cpu trainer.max_steps=4 trainer.log_every_n_steps=1
data.images_per_batch=1 callbacks.checkpoint.every_n_train_steps=1 publish_export=false""".split()


@pytest.mark.parametrize("name", ALSO)
def test_the_checkpoint_alone_is_enough_whatever_learns(name, place, whole):
    settings = [*FEW, *ALSO[name].split()]
    expected = losses(start(place, f"{len(name)}-whole", *settings))
    checkpoint = stopped_early(place, f"{len(name)}-cut", *settings)
    assert losses(start(place, f"{len(name)}-on", f"ckpt_path={checkpoint}")) == expected[2:] != []


CHANGED = """data.images_per_batch=2 data.questions_per_image=3 data.repeat=2 data.fraction=0.5 data.group_by_length=true
data.image_aspect=pad data=scenes loss=cross_entropy loss.kl.weight=2 scheduler=cosine scheduler.warmup=0.5 scheduler.floor=0 grad_tokens_per_image=4
trainer.accumulate_grad_batches=2 trainer.gradient_clip_val=0.5 optimizer.lr=0.002 optimizer=sgd seed=0 prune_ratio=0.055 relaxation=argmax
pruner=learnpruner adapter=lora experiment=stage1 experiment=soft_topk debug=overfit backbone.dtype=bfloat16
backbone.attn_implementation=eager""".split()


@pytest.mark.parametrize("setting", CHANGED)
def test_a_setting_that_the_losses_depend_on_is_refused(setting, place, cut, capsys):
    said = refused(place, capsys, f"ckpt_path={cut}", setting)
    assert "comes from a run with " in said and "leave" in said
    key = setting.split("=")[0]
    assert key.split(".")[0] in said or key in ("experiment", "debug")


def test_every_setting_is_compared_but_those_named_here(place, cut):
    """A new setting is compared, or stands here."""
    held = torch.load(place / cut, weights_only=True)
    free = set()
    for name, _, _ in setting_differences(held["config"], {}, ()):
        now = copy.deepcopy(held["config"])
        inner = now
        for key in name.split(".")[:-1]:
            inner = inner[int(key) if isinstance(inner, list) else key]
        inner[int(name.split(".")[-1]) if isinstance(inner, list) else name.split(".")[-1]] = "another"
        if not list(setting_differences(held["config"], now, unbound_settings(held))):
            free.add(name)
    open_groups = {name for name in free if name.split(".")[0] in ("benchmark", "logger", "callbacks")}
    assert free - open_groups == set(
        """name ckpt_path publish_export export_checkpoint allow optimized_metric plan backbone.path backbone.revision backbone.device_map data.json data.images data.root data.skipped
        data.workers trainer.accelerator trainer.devices trainer.num_nodes trainer.strategy trainer.precision trainer.max_steps trainer.log_every_n_steps
        trainer.profiler""".split()
    )


def test_what_a_stream_yields_depends_on_its_workers(place, cut):
    held = torch.load(place / cut, weights_only=True)
    assert "data.workers" in unbound_settings(held)
    held["config"]["data"]["streaming"] = True
    assert "data.workers" not in unbound_settings(held)


def test_harmless_settings_are_taken_and_told(place, whole, cut):
    resumed = start(
        place,
        "told",
        f"ckpt_path={cut}",
        "data.workers=1",
        "trainer.max_steps=3",
        "callbacks.checkpoint.every_n_train_steps=2",
    )
    assert [step for step, _ in losses(resumed)] == [2]
    log = (resumed / "train.log").read_text()
    assert "going on with data.workers=1; the run before had 0" in log
    assert "going on with trainer.max_steps=3; the run before had 4" in log


def test_backbone_and_data_may_have_moved(place, whole, cut):
    resumed = start(place, "moved", f"ckpt_path={cut}", "backbone.path=moved/tiny", "data.json=moved/json/train.json")
    assert losses(resumed) == losses(whole)[2:]


@pytest.mark.parametrize(
    ("setting", "what"),
    [("backbone.path=twin", "another backbone"), ("data.json=changed/json/train.json", "another data")],
)
def test_others_of_the_same_shape_are_refused(setting, what, place, cut, capsys):
    assert what in refused(place, capsys, f"ckpt_path={cut}", setting)


def test_another_precision_is_refused(place, cut, capsys):
    said = refused(place, capsys, f"ckpt_path={cut}", "trainer.precision=bf16-mixed")
    assert "had precision 32-true and this one has bf16-mixed" in said


def test_a_checkpoint_of_before_says_what_it_lacks(place, cut, capsys):
    said = refused(place, capsys, edited(place, cut, lambda held: held.pop("config")))
    assert "holds no settings of its run" in said
    without = edited(place, cut, lambda held: held.pop("facts"))
    assert "backbone.path=tiny, not moved/tiny" in refused(place, capsys, without, "backbone.path=moved/tiny")


def test_a_checkpoint_names_no_code_of_its_own(place, cut, capsys, monkeypatch):
    def change(held):
        held["config"]["optimizer"]["_target_"] = "os.system"

    monkeypatch.setattr("os.system", lambda *_, **__: pytest.fail("it ran"))
    assert "asks for 'os.system', which no file of conf/ names" in refused(place, capsys, edited(place, cut, change))


def loop(held):
    return held["loops"]["fit_loop"]


MALFORMED = {
    "no loops": lambda held: held.update(loops={}),
    "a loop of another kind": lambda held: held.update(loops=[]),
    "no optimizer": lambda held: held.update(optimizer_states=[]),
    "no moments": lambda held: held["optimizer_states"][0].update(state={}),
    "moments of another shape": lambda held: held["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(2)),
    "moments of another kind": lambda held: held["optimizer_states"][0]["state"][0].update(exp_avg="none"),
    "moments without a part": lambda held: held["optimizer_states"][0]["state"][0].pop("exp_avg_sq"),
    "another optimizer": lambda held: held["optimizer_states"][0].update(
        state={0: {"momentum_buffer": torch.zeros(3)}}
    ),
    "groups of other weights": lambda held: held["optimizer_states"][0]["param_groups"][0].update(params=[0]),
    "no learning rate": lambda held: held.update(lr_schedulers=[]),
    "a learning rate of another step": lambda held: held["lr_schedulers"][0].update(last_epoch=1),
    "a step of another kind": lambda held: held.update(global_step="two"),
    "another step": lambda held: held.update(global_step=1),
    "batches of another step": lambda held: loop(held)["state_dict"].update(combined_loader=[{"batches": 1}]),
    "an optimizer of another step": lambda held: loop(held)["epoch_loop.automatic_optimization.optim_progress"][
        "optimizer"
    ]["step"]["total"].update(completed=1),
    "no batches": lambda held: loop(held)["state_dict"].update(combined_loader=[]),
    "no weights": lambda held: held.update(state_dict={}),
    "weights of another kind": lambda held: held.update(state_dict={"plan": "none"}),
    "settings of another kind": lambda held: held.update(config="none"),
    "a setting of another kind": lambda held: held["config"].update(seed="three"),
    "a group of another kind": lambda held: held["config"].update(trainer=[1]),
    "weights that are not finite": lambda held: next(iter(held["state_dict"].values())).fill_(float("nan")),
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_checkpoint_is_one_sentence(change, place, cut, capsys):
    assert "ckpt_path=edited/edited.ckpt" in refused(place, capsys, edited(place, cut, change))


def test_a_broken_checkpoint_names_the_whole_one_beside_it(place, cut, capsys):
    folder = place / "broken"
    shutil.copytree((place / cut).parent, folder)
    (folder / "last.ckpt").write_bytes(b"")
    said = refused(place, capsys, "ckpt_path=broken/last.ckpt")
    assert "cannot be read as a checkpoint" in said and "broken/step_2.ckpt is whole, after step 2" in said
    (folder / "step_2.ckpt").write_bytes(b"")
    assert "is whole" not in refused(place, capsys, "ckpt_path=broken/last.ckpt")


def test_names_of_checkpoints_are_read_back_as_settings(place, whole):
    assert {path.name for path in (whole / "checkpoints").iterdir()} == {"step_4.ckpt", "last.ckpt"}


def test_a_write_that_fails_leaves_the_file_before_it(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"whole")
    with pytest.raises(OSError) as failed, atomic_write(path) as file:
        file.write(b"half")
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path] and failed.value.filename == str(path)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")  # the temporary folder takes no part
    seen = []
    monkeypatch.setattr("os.fsync", seen.append)
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"whole"
    assert path.read_bytes() == b"new" and len(seen) == 2  # the file, and the folder that names it


@pytest.mark.parametrize("kind", ["results", "plan"])
def test_what_is_written_again_is_the_old_or_the_new(kind, tmp_path, monkeypatch):
    """The write is cut in its middle, as a full disk does it."""
    write = {
        "results": lambda: write_json({"a": 1}, tmp_path / "results.json"),
        "plan": lambda: Plan([Stage(LearnedPruner(4), "encoder")], 0.5).save(tmp_path),
    }[kind]
    write()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    plain = Path.open

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    def opened(self, mode="r", *given, **more):
        file = plain(self, mode, *given, **more)
        if "w" not in mode:
            return file
        file.close()
        return Full()

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OSError):
        write()
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_no_file_is_written_to_and_stays_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_json([1], tmp_path / "pipe")
    reader.join(10)
    assert json.loads(read[0]) == [1] and (tmp_path / "pipe").is_fifo()


def test_of_several_whole_checkpoints_the_newest_is_named(tmp_path):
    for step in (2, 10, 4):
        held = {"state_dict": {}, "global_step": step, "optimizer_states": [], "loops": {}}
        torch.save(held, tmp_path / f"step_{step}.ckpt")
    (tmp_path / "last.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match=r"step_10.ckpt is whole, after step 10"):
        read_checkpoint(str(tmp_path / "last.ckpt"))


def aged(held):
    """Settings and choices as the version before the terms of the loss had classes wrote them."""
    now = held["config"]
    loss, scheduler = now.pop("loss"), now.pop("scheduler")
    none = {"kl": 0.0, "cross_entropy": 0.0, "hidden": 0.0, "budget": 0.0}
    now["objective"] = none | {name: term["weight"] for name, term in loss.items()}
    now["schedule"] = {name: scheduler[name] for name in ("warmup", "floor")}
    now["adapt"], now["pool"] = now.pop("adapter"), now.pop("grad_tokens_per_image")
    now["copy"], now["kv"] = now.pop("publish_export"), now.pop("kv_eviction")
    for new, old in TRAINER_BEFORE.items():
        now["trainer"][old] = now["trainer"].pop(new)
    for name in ("num_nodes", "val_check_interval", "profiler"):
        now["trainer"].pop(name, None)
    del now["validation"], now["optimized_metric"]
    now["callbacks"] = {"checkpoint_every": 1, "progress": False}
    now["logger"] = {
        "csv": True,
        "wandb": False,
        "project": "learnpruner",
        "entity": None,
        "group": None,
        "mode": "auto",
    }
    chosen = held["choices"]
    chosen["objective"], chosen["adapt"] = chosen.pop("loss"), chosen.pop("adapter")
    chosen["kv"] = chosen.pop("kv_eviction", None)
    chosen.pop("scheduler", None)


TRAINER_BEFORE = {
    "gradient_clip_val": "clip",
    "accumulate_grad_batches": "accumulate",
    "log_every_n_steps": "log_every",
}


def test_a_checkpoint_of_before_the_renames_goes_on(place, whole, cut):
    given = edited(place, cut, aged, "aged.ckpt")
    resumed = start(place, "aged", given, *QUIET[:3], "callbacks.checkpoint.every_n_train_steps=1")
    assert losses(resumed) == losses(whole)[2:] and len(losses(resumed)) == 2
    for name, value in load_file(whole / "export/model.safetensors").items():
        assert torch.equal(value, load_file(resumed / "export/model.safetensors")[name]), name


@pytest.mark.parametrize(
    "setting", ["trainer.gradient_clip_val=0.5", "grad_tokens_per_image=4", "loss.kl.weight=2", "scheduler.floor=0.1"]
)
def test_the_settings_of_before_the_renames_are_compared(setting, place, cut, capsys):
    said = refused(place, capsys, edited(place, cut, aged, "aged.ckpt"), setting)
    assert "comes from a run with " in said and setting.split("=")[0] in said
