"""Backbones: loaded frozen, described by their family's adapter, refused in a sentence."""

import pytest
import torch
from tiny import TOKENS, ids, inputs, tiny_llava

from learnpruner.backbones import adapter, base, load_backbone


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
    found = adapter(tiny_llava(layers=4, width=48, hidden_size=80))
    assert (found.tokens, found.grid, found.layers) == (TOKENS, (6, 6), 4)
    assert (found.feature_width, found.text_width, found.feature_layer) == (48, 80, 1)
    assert len(found.tower_layers) == 3


@pytest.mark.parametrize(("index", "layer"), [(-2, 1), (-1, 2), (1, 0), ([0, 3], 2)])
def test_the_feature_layer_is_the_one_that_the_projector_reads(index, layer):
    model = tiny_llava()
    model.config.vision_feature_layer = index
    assert adapter(model).feature_layer == layer


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
    refused("model_type='llama' is not supported yet; known families: llava", load_backbone, tmp_path)


def test_features_with_the_class_token_are_refused():
    model = tiny_llava()
    model.config.vision_feature_select_strategy = "full"
    refused("'full' is not supported", adapter, model)
