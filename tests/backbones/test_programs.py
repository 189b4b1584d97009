"""train.py and eval.py on a tiny stand-in of every config in conf/backbone: train, export, evaluate, generate, ask."""

import json
import sys
from pathlib import Path

import pytest
from families import FAMILIES
from safetensors.torch import load_file
from tiny_benchmarks import color, gqa

import eval as evaluation
import learnpruner
import train
from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.data.collate import IGNORE_INDEX, Collate
from learnpruner.data.llava_json import LlavaJson
from learnpruner.data.scenes import write_folder

STAND_INS = {
    "nano": "llava",
    "nano_2": "llava",
    "llava15_7b": "llava",
    "llava15_13b": "llava",
    "llava_next_7b": "llava_next",
    "llava_next_mistral_7b": "llava_next_mistral",
    "llava_onevision_7b": "llava_onevision",
    "video_llava_7b": "video_llava",
    "qwen2_5_vl_7b": "qwen2_5_vl",
    "qwen3_vl_8b": "qwen3_vl",
}
TRAIN = (
    "data=llava_json data.json=json/train.json data.images_per_batch=2 data.questions_per_image=2 trainer=cpu "
    "trainer.precision=32-true trainer.max_steps=2 trainer.log_every_n_steps=1 logger=csv callbacks.progress=false "
    "prune_ratio=0.25 grad_tokens_per_image=8 benchmark.limit=3 benchmark.num_examples=1 benchmark.baselines_to_run=[random]"
).split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with four scenes as LLaVA JSON and a stand-in of each family, where the programs run."""
    folder = tmp_path_factory.mktemp("place")
    write_folder(folder / "json", "train", 4, questions=2)
    gqa(folder / "gqa")
    for name in set(STAND_INS.values()):
        FAMILIES[name].save(folder / name)
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Runs a program with a command line; returns the run's folder and what was printed."""
    monkeypatch.chdir(place)

    def call(program, *arguments):
        name = f"run{len(list(place.glob('logs/*')))}"
        monkeypatch.setattr(sys, "argv", ["program.py", f"name={name}", *arguments])
        program.main()
        (folder,) = place.glob(f"logs/{name}/*/*")
        return folder, capsys.readouterr().out

    return call


def test_every_config_has_a_stand_in():
    assert {path.stem for path in (Path(train.CONF) / "backbone").glob("*.yaml")} == set(STAND_INS)


@pytest.mark.parametrize("name", sorted(STAND_INS))
def test_a_config_trains_exports_evaluates_generates_and_asks(name, run, place):
    model = [f"backbone={name}", f"backbone.path={STAND_INS[name]}", "backbone.dtype=float32"]
    folder, said = run(train, *model, *TRAIN)
    assert any(line.startswith("keeping ") for line in said.splitlines())
    assert (folder / "tokens.png").is_file()
    weights = load_file(folder / "export" / "model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())
    results = json.loads((folder / "results.json").read_text())
    assert results["samples"] == 3 and results["prune_ratio"] == 0.25

    export, field = f"plan={folder}/export", ["benchmark=gqa", "benchmark.datasets.gqa.source=gqa", "benchmark.limit=3"]
    scored, said = run(evaluation, *model, export, *field, "benchmark.datasets.gqa.max_new_tokens=3")
    found = json.loads((scored / "results.json").read_text())["scores"]
    assert set(found) == {"unpruned", "export"} and "RelAcc" in said

    backbone = load_backbone(place / STAND_INS[name])
    assert max(len(weight) for weight in weights.values()) == backbone.family.feature_width
    inputs = encode_prompts(backbone, [color(1), color(2)], ["is there a circle ?", "what is it ?"])
    with learnpruner.load(folder / "export").prepare(backbone.family).on(backbone.model) as engine:
        out = backbone.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    engine.verify()
    assert out.shape[1] == inputs["input_ids"].shape[1] + 3 and max(engine.record.cached) < inputs["input_ids"].shape[1]

    picture = next((place / "json").rglob("*.png"))
    asked, said = run(evaluation, *model, export, f"image={picture}", "question='is there a circle?'")
    answer = json.loads((asked / "results.json").read_text())
    assert answer["pruned"] is not None and (asked / "tokens.png").stat().st_size > 1000


def test_baselines_that_a_backbone_cannot_run_are_left_out(run):
    """On tiles from a tower without [CLS]: with the default benchmark, training must not end in an error."""
    model = ["backbone=llava_onevision_7b", "backbone.path=llava_onevision", "backbone.dtype=float32"]
    folder, _ = run(train, *model, *(word for word in TRAIN if "baselines_to_run" not in word))
    stand_in = json.loads((folder / "results.json").read_text())["baselines"]
    assert {"random", "uniform", "uniform+text", "untrained+text"} <= set(stand_in) and not {"cls", "cls+text"} & set(
        stand_in
    )
    assert "the baseline cls is left out: FasterVLM reads" in next(folder.glob("*.log")).read_text()


@pytest.mark.parametrize("name", ["llava_onevision_7b", "qwen2_5_vl_7b", "qwen3_vl_8b"])
def test_a_method_that_reads_cls_says_so_on_a_tower_without(name, run, capsys):
    model = [f"backbone={name}", f"backbone.path={STAND_INS[name]}", "backbone.dtype=float32"]
    with pytest.raises(SystemExit) as stopped:
        run(
            evaluation,
            *model,
            "pruner=fastervlm",
            "prune_ratio=0.25",
            "pruner.positions=original",
            "benchmark.baselines_to_run=[]",
        )
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(said) == 1
    assert "FasterVLM reads 'cls_attention', and this vision tower has no [CLS] token: choose" in said[0]


@pytest.mark.parametrize("name", sorted(set(STAND_INS.values())))
def test_answers_alone_carry_loss_and_prompts_are_those_of_inference(name, place):
    backbone, source = load_backbone(place / name), LlavaJson(place / "json" / "train.json", questions=2)
    samples = [source.sample(i) for i in range(2)]
    processor, batch = backbone.processor, Collate(backbone.processor)(samples)
    turns = [(sample, turn) for sample in samples for turn in sample.turns]
    end = processor.tokenizer.eos_token
    for row, (sample, (question, answer)) in enumerate(turns):
        labels, ids = batch.labels[row], batch.input_ids[row][batch.attention_mask[row].bool()]
        said = processor.tokenizer.decode(labels[labels != IGNORE_INDEX])
        assert said.replace(" ", "") == f"{answer}{end}".replace(" ", "")
        user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        prompt = processor.apply_chat_template([user], add_generation_prompt=True)
        own = processor(images=[sample.image], text=[prompt], return_tensors="pt")["input_ids"][0]
        assert ids[: len(own)].tolist() == own.tolist()
        assert len(ids) == len(own) + int((labels != IGNORE_INDEX).sum())
    logits = backbone.model(**batch.inputs if name != "llava" else batch.rows()).logits
    assert logits.isfinite().all() and len(logits) == len(turns)


@pytest.mark.parametrize("name", sorted(set(STAND_INS.values())))
def test_some_rows_of_a_batch_are_a_batch(name, place):
    backbone, source = load_backbone(place / name), LlavaJson(place / "json" / "train.json", questions=2)
    batch = Collate(backbone.processor)([source.sample(i) for i in range(2)])
    rows = batch.image_index.new_tensor([2, 0, 2])
    whole, some = backbone.model(**batch.rows()).logits, backbone.model(**batch.pick(rows).rows()).logits
    where = batch.attention_mask[rows].bool()
    assert (some - whole[rows])[where].abs().max() < 1e-5
