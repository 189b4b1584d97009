"""The real train.py on each conf/data, two steps on a folder of exactly the real one's format."""

import csv
import json
import math
import sys

import pytest

import train
from learnpruner.cli.main import hydra_main
from tests.test_train import CONF, SMALL
from tests.tiny_data import captions558k, mix665k, onevision, vsft
from tests.tiny_folder import tiny_folder

DATA = {
    "scenes": [],
    "llava_json": ["data.json=mix/llava_v1_5_mix665k.json"],
    "llava_665k": ["data.root=mix", "data.fraction=0.5", "data.image_aspect=pad", "data.group_by_length=true"],
    "llava_558k": ["data.root=captions"],
    "llava_instruct_vsft": ["data.source=vsft"],
    "llava_instruct_vsft, streamed": ["data.source=vsft", "data.streaming=true", "data.buffer=4", "data.workers=1"],
    "llava_onevision_data": ["data.source=onevision", "data.config=small"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    tiny_folder(folder / "tiny")
    mix665k(folder / "mix")
    captions558k(folder / "captions")
    vsft(folder / "vsft")
    onevision(folder / "onevision")
    return folder


@pytest.mark.parametrize(
    "given",
    ["data=llava_665k data.root=x", "data=llava_558k data.root=x"]
    + ["data=llava_instruct_vsft", "data=llava_onevision_data data.config=x"],
)
def test_a_step_on_real_data_has_no_more_rows_than_a_gpu_holds_at_7b(given, tmp_path, monkeypatch):
    reached = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "backbone=llava15_7b", *given.split()])
    hydra_main(CONF, "train")(lambda config, folder: reached.append(config.data))()
    assert reached[0].images_per_batch * reached[0].questions_per_image <= 8


def test_every_data_config_is_here():
    assert {name.split(",")[0] for name in DATA} == {path.stem for path in CONF.glob("data/*.yaml")}


@pytest.mark.parametrize("name", DATA)
def test_two_steps_of_training_on_each_kind_of_data(name, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    run = "".join(filter(str.isalnum, name))
    settings = [f"data={name.split(',')[0]}", *DATA[name], "trainer.max_steps=2", f"name={run}"]
    monkeypatch.setattr(sys, "argv", ["train.py", *SMALL, *settings])
    train.main()
    (folder,) = place.glob(f"logs/{run}/runs/*")
    losses = [float(row["loss"]) for row in csv.DictReader((folder / "metrics.csv").open()) if row.get("loss")]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    aspect = json.loads((folder / "export/config.json").read_text())["image_aspect"]
    padded = "data.image_aspect=pad" in settings
    assert aspect == ("pad" if padded else "processor")
    assert ("; pictures padded to squares" in capsys.readouterr().out) == padded
    assert not (folder / "skipped.jsonl").exists()
