"""Backbones: loaded frozen, described by their family's adapter, refused in a sentence."""

import pytest
import torch
from accelerate import dispatch_model
from families import FAMILIES
from plans import plan
from tiny import TOKENS, ids, inputs, tiny_llava
from transformers import AutoConfig, PixtralVisionConfig
from transformers.utils import is_flash_attn_2_available

from learnpruner.backbones import family_of, load_backbone
from learnpruner.backbones import loading as base


@pytest.fixture
def folder(tmp_path, monkeypatch):
    tiny_llava().save_pretrained(tmp_path / "llava")
    monkeypatch.setattr(base, "load_processor", lambda *args: "processor")
    return tmp_path / "llava"


def test_a_backbone_is_frozen_and_in_evaluation_mode(folder):
    backbone = load_backbone(folder)
    assert not backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert backbone.processor == "processor"
    assert backbone.name == str(folder)
    batch = inputs([ids(1)])
    assert torch.allclose(backbone.model(**batch).logits, tiny_llava()(**batch).logits, atol=1e-5)


def test_dtype_and_attention_are_chosen(folder):
    model = load_backbone(folder, dtype="bfloat16", attn_implementation="eager").model
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"


def test_the_adapter_describes_the_model():
    found = family_of(tiny_llava(layers=4, width=48, hidden_size=80))
    assert (found.tokens, found.grid, found.layers) == (TOKENS, (6, 6), 4)
    assert (found.feature_width, found.text_width, found.feature_layer) == (48, 80, 1)
    assert len(found.tower_layers) == 3


@pytest.mark.parametrize(("index", "layer"), [(-2, 1), (-1, 2), (1, 0), ([0, 3], 2)])
def test_the_feature_layer_is_the_one_that_the_projector_reads(index, layer):
    model = tiny_llava()
    model.config.vision_feature_layer = index
    assert family_of(model).feature_layer == layer


def refused(match, run, *args, **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        run(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path):
    refused("No backbone at", load_backbone, tmp_path / "nothing")


def test_an_unknown_dtype_is_refused(folder):
    refused("name a torch type", load_backbone, folder, dtype="float23")


def test_an_unknown_family_is_refused(tmp_path):
    tiny_llava().config.text_config.save_pretrained(tmp_path)
    known = "llava, llava_next, llava_onevision, qwen2_5_vl, qwen3_vl, video_llava"
    refused(f"model_type='llama' is not supported yet; known families: {known}.", load_backbone, tmp_path)


def test_features_with_the_class_token_are_refused():
    model = tiny_llava()
    model.config.vision_feature_select_strategy = "full"
    refused(r"'full' is not supported: \[CLS\] would be among the visual tokens", family_of, model)


def test_leaving_out_a_patch_for_want_of_a_class_token_is_refused():
    _, model = FAMILIES["llava_siglip"].build()
    assert family_of(model).tokens == 36
    model.config.vision_feature_select_strategy = "default"
    refused(r"'default' is not supported: this tower has no \[CLS\]", family_of, model)


def test_a_tower_that_runs_all_images_as_one_sequence_is_refused():
    model = tiny_llava()
    model.config.vision_config = PixtralVisionConfig()
    refused("'pixtral' is not supported", family_of, model)


@pytest.fixture
def asked(monkeypatch):
    """What a load asks Hugging Face for, by part; the model is a small one that says it cannot be moved."""
    calls, config = {}, tiny_llava().config

    class Fixed:
        hf_device_map, training, is_quantized = {"": 0}, False, True

        def requires_grad_(self, _):
            return self

        def eval(self):
            return self

    def note(part, answer):
        return lambda *arguments, **options: calls.update({part: (arguments, options)}) or answer

    monkeypatch.setattr(AutoConfig, "from_pretrained", note("config", config))
    whole = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}
    monkeypatch.setattr(base.AutoModelForImageTextToText, "from_pretrained", note("model", (Fixed(), whole)))
    monkeypatch.setattr(base, "load_processor", note("processor", "processor"))
    monkeypatch.setattr(base, "is_bitsandbytes_available", lambda: True)
    return calls


def test_a_hub_id_and_its_revision_reach_every_part(asked):
    backbone = load_backbone("some/where", revision="v2")
    assert (backbone.name, backbone.revision) == ("some/where", "v2")
    assert asked["config"] == (("some/where",), {"revision": "v2", "trust_remote_code": False})
    assert asked["processor"] == (("some/where", "v2"), {})
    (name,), options = asked["model"]
    assert name == "some/where"
    chosen = {"revision": "v2", "dtype": torch.float32, "attn_implementation": "sdpa"}
    assert chosen.items() <= options.items()
    assert options["trust_remote_code"] is False and options["use_safetensors"] is True


def test_a_device_map_and_an_attention_are_passed_on_and_nothing_is_moved(asked):
    backbone = load_backbone("x", device_map="auto", attn_implementation="flash_attention_2", device="cuda")
    assert backbone.placed
    _, options = asked["model"]
    assert (options["device_map"], options["attn_implementation"]) == ("auto", "flash_attention_2")


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_bitsandbytes_stores_the_weights_where_they_stay(asked, bits, monkeypatch):
    """On the device that was asked for; in training on the process' own GPU."""
    backbone = load_backbone("x", quantization=bits, dtype="bfloat16", device="cuda:1")
    _, options = asked["model"]
    stored = options["quantization_config"]
    assert backbone.placed and options["device_map"] == "cuda:1"
    assert (stored.load_in_4bit, stored.load_in_8bit) == (bits == "4bit", bits == "8bit")
    assert bits == "8bit" or stored.bnb_4bit_compute_dtype == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    load_backbone("x", quantization=bits)
    assert asked["model"][1]["device_map"] == "cuda:3"
    load_backbone("x", quantization=bits, device_map="auto")
    assert asked["model"][1]["device_map"] == "auto"


def test_without_bitsandbytes_it_is_said(folder, monkeypatch):
    monkeypatch.setattr(base, "is_bitsandbytes_available", lambda: False)
    refused("quantization='8bit' needs bitsandbytes: install it", load_backbone, folder, quantization="8bit")


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_without_flash_attention_it_is_said(folder, weights, monkeypatch):
    monkeypatch.setattr("learnpruner.backbones.random_weights.load_processor", lambda *args: "processor")
    options = {"attn_implementation": "flash_attention_2", "dtype": "bfloat16", "weights": weights}
    refused("FlashAttention2 .* install it, or choose attn_implementation='sdpa'", load_backbone, folder, **options)


@pytest.mark.parametrize("options", [{"attn_implementation": "none"}, {"device_map": "nowhere"}])
def test_what_hugging_face_refuses_is_one_sentence(folder, options):
    refused(next(iter(options.values())), load_backbone, folder, **options)


@torch.no_grad()
def test_a_model_that_is_partly_on_disk_prunes_as_one_that_is_not(tmp_path):
    """As device_map="auto" leaves a model that is larger than the devices."""
    batch, options = inputs([ids(1), ids(1, seed=1)]), {"max_new_tokens": 4, "do_sample": False}
    whole, parted = tiny_llava(), tiny_llava()
    places = {"model.vision_tower": "disk", "model.multi_modal_projector": "disk", "lm_head": "cpu"}
    places |= {f"model.language_model.{part}": "cpu" for part in ("embed_tokens", "norm", "rotary_emb")}
    places |= {
        f"model.language_model.layers.{i}": ("disk", "cpu")[i % 2]
        for i in range(len(whole.model.language_model.layers))
    }
    dispatch_model(parted, places, main_device="cpu", offload_dir=tmp_path)
    found = []
    for model in (whole, parted):
        with plan("two", 0.5).on(model) as engine:
            found.append(model.generate(**batch, **options))
        engine.verify()
    assert torch.equal(*found)
