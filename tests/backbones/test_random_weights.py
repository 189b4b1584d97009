"""Models of real size without a download: the configs of conf/backbone name the models' own sizes."""

from pathlib import Path

import pytest
import torch
from families import FAMILIES, picture
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from learnpruner.backbones import load_backbone
from learnpruner.backbones.random_weights import _DRAWS
from learnpruner.benchmarks.prompting import encode_prompts

FOLDER = Path(__file__).parents[2] / "conf" / "backbone"
PARAMETERS = {  # in billions, as the model cards say
    "llava15_7b": 7.06,
    "llava15_13b": 13.35,
    "llava_next_7b": 7.06,
    "llava_next_mistral_7b": 7.57,
    "llava_onevision_7b": 8.03,
    "video_llava_7b": 7.37,
    "qwen2_5_vl_7b": 8.29,
    "qwen3_vl_8b": 8.77,
}
TOKENS = {  # of a picture of 672 x 672 pixels
    "llava15_7b": 576,
    "llava15_13b": 576,
    "llava_next_7b": 5 * 576 + 48,
    "llava_next_mistral_7b": 5 * 576 + 48,
    "llava_onevision_7b": 5 * 729 + 54,
    "video_llava_7b": 256,
    "qwen2_5_vl_7b": 24 * 24,
    "qwen3_vl_8b": 21 * 21,
}


def shape(name, **fields):
    config = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    return {**config["shape"], **fields}


def test_every_config_but_the_embedded_one_can_be_built_at_random():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {"nano", "nano_2", *PARAMETERS}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_a_config_has_the_sizes_of_its_model_and_prompts_of_its_lengths(name):
    backbone = load_backbone(name, dtype="bfloat16", device="meta", weights="random", shape=shape(name))
    assert sum(p.numel() for p in backbone.model.parameters()) / 1e9 == pytest.approx(PARAMETERS[name], abs=6e-3)
    assert {p.dtype for p in backbone.model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in backbone.model.parameters()) and not backbone.model.training
    assert backbone.processor.tokenizer.vocab_size < backbone.model.config.get_text_config().vocab_size
    prompts = backbone.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}],
        add_generation_prompt=True,
    )
    ids = backbone.processor(images=[picture((672, 672))], text=[prompts], return_tensors="pt")["input_ids"]
    assert int(backbone.family.placeholders(ids).sum()) == TOKENS[name]


def test_random_weights_of_a_small_shape_answer():
    small = shape("llava15_7b")
    small["text_config"].update(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    small["vision_config"].update(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    backbone = load_backbone("x", weights="random", shape=small)
    inputs = encode_prompts(backbone, [picture((40, 60))] * 2, ["what is it?", "and this?"])
    out = backbone.model.generate(**inputs, max_new_tokens=3)
    assert out.shape == (2, inputs["input_ids"].shape[1] + 3)
    assert all(isinstance(text, str) for text in backbone.processor.batch_decode(out))


def test_weights_start_as_the_families_do_and_are_never_copied_in_fp32():
    """Of each matrix, drawn once and repeated, no two rows are alike."""
    small = shape("llava15_7b")
    small["text_config"].update(hidden_size=256, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    small["vision_config"].update(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    with Largest() as made:
        model = load_backbone("x", dtype="bfloat16", weights="random", shape=small).model
    head = model.lm_head.weight
    assert head.numel() > _DRAWS >= made.floats
    assert len(head[:, :16].unique(dim=0)) == len(head)
    assert float(head.float().std()) == pytest.approx(0.02, rel=1e-2)
    assert (model.model.language_model.norm.weight == 1).all()
    projector = model.model.multi_modal_projector.linear_1
    assert (projector.bias == 0).all() and float(projector.weight.float().std()) == pytest.approx(0.02, rel=0.05)
    again = load_backbone("x", dtype="bfloat16", weights="random", shape=small).model
    assert torch.equal(again.lm_head.weight, head)


class Largest(TorchDispatchMode):
    """The size of the largest fp32 tensor that is made inside."""

    floats = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float32:
            self.floats = max(self.floats, out.numel())
        return out


def test_a_folder_gives_its_own_sizes_and_processor(tmp_path):
    FAMILIES["llava"].save(tmp_path)
    made, saved = load_backbone(tmp_path, weights="random"), load_backbone(tmp_path)
    assert made.model.config.text_config.hidden_size == saved.model.config.text_config.hidden_size
    assert made.processor.tokenizer.get_vocab() == saved.processor.tokenizer.get_vocab()
    assert not torch.equal(made.model.lm_head.weight, saved.model.lm_head.weight)
    assert "random weights" in made.name


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("give backbone.shape", {"weights": "random"}),
        ("choose 'pretrained' or 'random'", {"weights": "none"}),
        ("leave out quantization", {"weights": "random", "quantization": "4bit"}),
        ("choose '4bit' or '8bit'", {"quantization": "2bit"}),
        ("needs bitsandbytes", {"quantization": "4bit"}),
        ("model_type='gpt2' is not supported", {"weights": "random", "shape": {"model_type": "gpt2"}}),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_a_sentence(match, options, monkeypatch):
    monkeypatch.setattr("learnpruner.backbones.loading.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match=match) as caught:
        load_backbone("nowhere", **options)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
