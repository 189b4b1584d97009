"""A backbone's folder is loaded whole or refused, and none of the code that it may bring is run."""

import builtins
import json
import pickle
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from learnpruner.backbones import load_backbone
from tests.tiny_folder import tiny_folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("whole") / "tiny")


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "tiny")


def change(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refused(match, *arguments, **options):
    with pytest.raises(ValueError, match=match) as caught:
        load_backbone(*arguments, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["model.layers.2.", "multi_modal_projector", "vision_tower", "lm_head"])
def test_missing_weights_are_refused(folder, part):
    def edit(weights):
        for name in [name for name in weights if part in name]:
            del weights[name]

    change(folder, edit)
    refused(f"the weights of .* lack .*{part.removeprefix('model.')}", folder)


def test_weights_of_another_shape_are_refused(folder):
    def edit(weights):
        name = next(name for name in weights if name.endswith("linear_1.weight"))
        weights[name] = weights[name][:-1].contiguous()

    change(folder, edit)
    refused("hold in another shape .*linear_1.weight", folder)


def test_weights_of_no_part_of_the_model_are_refused(folder):
    change(folder, lambda weights: weights.update({"model.language_model.layers.99.mlp.up_proj.weight": torch.ones(2)}))
    refused("hold beside the model's .*layers.99", folder)


def test_what_old_files_keep_and_the_model_computes_is_left_aside(folder, whole):
    computed = {
        "model.vision_tower.vision_model.embeddings.position_ids": torch.arange(65)[None],
        "model.language_model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6),
    }
    change(folder, lambda weights: weights.update(computed))
    for name, value in load_backbone(whole).model.state_dict().items():
        assert torch.equal(load_backbone(folder).model.state_dict()[name], value), name


def test_tied_weights_are_stored_once(folder):
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    change(folder, lambda weights: weights.pop("language_model.lm_head.weight"))
    model = load_backbone(folder).model
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_pickled_weights_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    refused("No backbone at .*safetensors", folder)


CODE = """
from pathlib import Path
Path(__file__).parent.joinpath("ran").touch()
Path({marker!r}).touch()
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer, AutoImageProcessor
class Evil: ...
"""
NAMES = ["AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "AutoImageProcessor", "AutoVideoProcessor"]
PARTS = {  # file -> what in it asks for a class that transformers does not have
    "config.json": {"model_type": "evil"},
    "tokenizer_config.json": {"tokenizer_class": "EvilTokenizer"},
    "processor_config.json": {"processor_class": "EvilProcessor"},
    "preprocessor_config.json": {"image_processor_type": "EvilImageProcessor"},
    "config.json, known": {},
    "generate": {},
}


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A file that foreign code makes when it runs; asking the user is a failure."""
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked whether to run code"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "ran"


@pytest.mark.parametrize("weights", ["pretrained", "random"])
@pytest.mark.parametrize("part", PARTS)
def test_no_code_of_a_backbone_s_folder_is_run(part, weights, folder, watched):
    (folder / "evil.py").write_text(CODE.format(marker=str(watched)))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text(CODE.format(marker=str(watched)))
    path = folder / part.split(",")[0]
    if part != "generate":
        held = json.loads(path.read_text()) if path.is_file() else {}
        mapped = dict.fromkeys(NAMES, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", None]}
        path.write_text(json.dumps(held | PARTS[part] | {"auto_map": mapped}))
    before = set(sys.modules)
    try:
        load_backbone(folder, weights=weights)
    except ValueError as error:
        assert "\n" not in str(error)
    assert not watched.exists()
    assert not [name for name in set(sys.modules) - before if "evil" in name]


def config(**changes):
    """config.json with fields of the language model, or of the whole, in another way."""

    def edit(folder):
        path = folder / "config.json"
        values = json.loads(path.read_text())
        for name, value in changes.items():
            (values if name in values else values["text_config"])[name] = value
        path.write_text(json.dumps(values))

    return edit


def content(name, data):
    return lambda folder: (folder / name).write_bytes(data)


DAMAGED = {
    "weights cut short": lambda folder: halve(folder / "model.safetensors"),
    "no weights": content("model.safetensors", b""),
    "a pickle as weights": content("model.safetensors", pickle.dumps({"x": 1})),
    "a config that is no UTF-8": content("config.json", b"\xff\xfe"),
    "a config nested without end": content("config.json", b"[" * 10_000),
    "a config that is null": content("config.json", b"null"),
    "a config that is a list": content("config.json", b"[]"),
    "a width in words": config(hidden_size="x"),
    "a width below 0": config(hidden_size=-4),
    "no heads": config(num_attention_heads=0),
    "an activation of no name": config(hidden_act="banana"),
    "a family that is a list": config(model_type=[1]),
    "a language model in words": config(text_config="x"),
    "a tokenizer cut short": content("tokenizer.json", b"{"),
    "a tokenizer that is a list": content("tokenizer.json", b"[]"),
    "a tokenizer that is no UTF-8": content("tokenizer.json", b"\xff"),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "no chat template": lambda folder: (folder / "chat_template.jinja").unlink(),
    "a chat template cut short": content("chat_template.jinja", b"{% for %}"),
    "a processor that is a list": content("processor_config.json", b"[]"),
    "a processor cut short": content("processor_config.json", b"{"),
}


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_folder_is_one_sentence_that_names_it(case, folder):
    DAMAGED[case](folder)
    refused(str(folder), folder)


@pytest.mark.parametrize("layer", [4, -5])
def test_a_layer_that_the_tower_has_not_is_refused(layer, folder):
    """It has 3, and what goes into the first."""
    held = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**held, "vision_feature_layer": layer}))
    backbone = load_backbone(folder)
    with pytest.raises(ValueError, match=r"vision_feature_layer=.* is refused: the vision tower has 3 layers"):
        assert backbone.family


@pytest.mark.parametrize("layer", [3, -4])
def test_the_outermost_layers_are_read(layer, folder):
    held = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**held, "vision_feature_layer": layer}))
    assert load_backbone(folder).model.config.vision_feature_layer == layer
