"""Every shipped export, as it was frozen at format 1: it loads whatever has moved since, and answers as it did then."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import learnpruner
from learnpruner import kv_eviction
from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.benchmarks.scenes import ScenesBenchmark

ROOT = Path(__file__).parents[2]
FROZEN = json.loads((ROOT / "tests/vectors/exports.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(path=str(ROOT / "checkpoints/nano-llava"))


@pytest.fixture(scope="module")
def inputs(backbone):
    scenes = ScenesBenchmark(split="test")
    examples = [scenes[i] for i in range(6)]
    return encode_prompts(backbone, [one.image for one in examples], [scenes.wording(one.question) for one in examples])


@pytest.mark.parametrize("name", FROZEN)
def test_an_export_of_format_1_generates_the_same_tokens(name, backbone, inputs, tmp_path):
    frozen = FROZEN[name]
    shutil.copytree(ROOT / name, tmp_path / "export")
    (tmp_path / "export/config.json").write_text(json.dumps(frozen["config"]), encoding="utf-8")
    load = kv_eviction.load_eviction if "policy" in frozen["config"] else learnpruner.load
    with torch.inference_mode(), load(tmp_path / "export").prepare(backbone.family).on(backbone.model):
        out = backbone.model.generate(**inputs, do_sample=False, max_new_tokens=8)
    assert out[:, inputs["input_ids"].shape[1] :].tolist() == frozen["tokens"]


def test_all_that_is_shipped_is_frozen():
    shipped = {str(path.parent.relative_to(ROOT)) for path in (ROOT / "checkpoints").rglob("config.json")}
    assert set(FROZEN) == shipped - {"checkpoints/nano-llava", "checkpoints/nano-llava-2"}
