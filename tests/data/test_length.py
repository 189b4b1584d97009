"""What does not fit into the model's positions is left out and listed; what fits is counted as the collate makes it."""

import json
import sys

import pytest
from families import FAMILIES, picture
from transformers import AutoProcessor

import train
from learnpruner.backbones import load_backbone
from learnpruner.cli import train_run
from learnpruner.data.collate import Collate
from learnpruner.data.datamodule import SceneSource
from learnpruner.data.hub import hub_source
from learnpruner.data.image_padding import apply_image_aspect
from learnpruner.data.length import FitsContext
from learnpruner.data.llava_json import LlavaJson
from learnpruner.data.sample import Sample
from learnpruner.data.scenes import write_folder
from learnpruner.kv_eviction.conversation_data import TranscriptCollate
from learnpruner.utils.errors import UserError
from tests.tiny_data import vsft
from tests.tiny_folder import tiny_folder


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return AutoProcessor.from_pretrained(tiny_folder(tmp_path_factory.mktemp("tiny")))


def rows(collate, sample):
    """The longest row that a sample really comes to."""
    batch = collate([sample])
    return int(getattr(batch, "present", batch.attention_mask).sum(1).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_is_as_long_as_is_said(name, tmp_path):
    collate = Collate(load_backbone(FAMILIES[name].save(tmp_path)).processor)
    for number, size in enumerate([(64, 64), (40, 90)]):
        sample = Sample(picture(size, number), [("what color?", "red"), ("what shape is red?", "a circle")], "")
        length = rows(collate, sample)
        assert FitsContext(collate, length)(sample) is None
        assert FitsContext(collate, length - 1)(sample) == f"its {length} tokens do not fit into {length - 1} positions"


def test_a_conversation_counts_as_a_whole(processor):
    collate, sample = TranscriptCollate(processor), SceneSource(questions=5).sample(0)
    length = rows(collate, sample)
    assert length > rows(Collate(processor), sample)
    assert FitsContext(collate, length)(sample) is None and str(length) in str(FitsContext(collate, length - 1)(sample))


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """300 records, of which number 7 has an answer of 200,000 characters."""
    folder = tmp_path_factory.mktemp("long")
    tiny_folder(folder / "tiny")
    write_folder(folder / "json", "train", 300, questions=1)
    records = json.loads((folder / "json/train.json").read_text())
    records[7]["conversations"][1]["value"] = "red circle " * 18_182
    (folder / "json/train.json").write_text(json.dumps(records))
    return folder


@pytest.mark.parametrize("aspect", ["processor", "pad"])
def test_a_record_that_is_too_long_is_listed_with_its_length(aspect, long, processor, tmp_path):
    records = LlavaJson("train.json", root=long / "json", skipped=tmp_path / "skipped.jsonl")
    source = apply_image_aspect(records, aspect, processor)
    source.admit(FitsContext(Collate(processor), 1024))
    met = [source.sample(i).id for i in range(300)]
    assert "train-000007" not in met and len(set(met)) == 299
    (line,) = map(json.loads, (tmp_path / "skipped.jsonl").read_text().splitlines())
    assert line["id"] == "train-000007" and "do not fit into 1024 positions" in line["reason"]
    assert 36_000 < int(line["reason"].split()[1]) < 40_000  # two words eighteen thousand times


def test_a_stream_leaves_them_out_too(processor, tmp_path):
    vsft(tmp_path / "hub", 24)
    source = hub_source(str(tmp_path / "hub"), streaming=True, skipped=tmp_path / "skipped.jsonl")
    source.arrange(1, 1, 0)
    first = source.sample(0).id
    source.admit(lambda sample: "its 9 tokens do not fit into 8 positions" if sample.id == first else None)
    source.arrange(1, 1, 0)
    assert first not in {source.sample(i).id for i in range(5)}
    (line,) = map(json.loads, (tmp_path / "skipped.jsonl").read_text().splitlines())
    assert line["id"] == first and line["reason"] == "its 9 tokens do not fit into 8 positions"


def test_scenes_that_are_too_long_are_one_sentence(processor):
    source = SceneSource(questions=200)
    source.admit(FitsContext(TranscriptCollate(processor), 1024))
    with pytest.raises(UserError, match=r"do not fit into 1024 positions; ask fewer data.questions_per_image"):
        source.sample(0)


def test_the_program_leaves_them_out(long, monkeypatch):
    monkeypatch.chdir(long)
    line = """backbone.path=tiny logger=csv callbacks.progress=false trainer.accelerator=cpu data=llava_json data.json=json/train.json
    data.images_per_batch=30 data.questions_per_image=1 prune_ratio=0.2 grad_tokens_per_image=8 benchmark.limit=2 benchmark.num_examples=0
    benchmark.baselines_to_run=[] publish_export=false trainer.max_steps=10 hydra.run.dir=run""".split()
    seen = []

    def fit(trainer, module, data, ckpt_path):
        source = data.batches.source
        seen.extend(source.sample(i).id for i in range(300))
        raise SystemExit

    monkeypatch.setattr(train_run, "fit", fit)
    monkeypatch.setattr(sys, "argv", ["train.py", *line])
    with pytest.raises(SystemExit):
        train.main()
    assert "train-000007" not in seen and "do not fit into 1024 positions" in (long / "run/skipped.jsonl").read_text()
