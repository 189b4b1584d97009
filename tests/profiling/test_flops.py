"""The closed form agrees with PyTorch's flop counter and with the numbers that are in print for LLaVA-1.5-7B."""

import pytest
import torch
from families import FAMILIES, picture
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from learnpruner.backbones import load_backbone, qwen2_5_vl
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.core.pruner import Pruner
from learnpruner.plan import Plan, Stage
from learnpruner.profiling.flops import kv_bytes, layer_tokens, model_dimensions, prefill_flops, prompt_cost
from tests.counting import counted_flops

TEXT = 62


def config(vision, text, image_size, patch_size):
    """vision, text: width, MLP width, layers, heads."""
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            **dict(zip(keys, vision, strict=True)),
            image_size=image_size,
            patch_size=patch_size,
            projection_dim=vision[0],
        ),
        text_config=LlamaConfig(**dict(zip(keys, text[:4], strict=True)), **text[4]),
        image_token_id=3,
        image_seq_length=(image_size // patch_size) ** 2,
    )


SEVEN_BILLION = config((1024, 4096, 24, 16), (4096, 11008, 32, 32, {"vocab_size": 32064}), 336, 14)


def two_stages(prune_ratio):
    return Plan([Stage(Pruner(), "encoder", 3), Stage(Pruner(), "12/32", 1)], prune_ratio)


@pytest.mark.parametrize(
    ("tokens", "counts", "tera", "ratio", "mebibytes", "kv_ratio"),
    [
        (576, (576, 576), 8.88, 1.0, 319, 1.0),
        (128, (219, 73), 2.87, 3.10, 94.9, 3.36),
        (64, (110, 37), 2.03, 4.37, 63.2, 5.05),
        (32, (55, 18), 1.60, 5.54, 46.9, 6.80),
    ],
)
def test_llava_7b_matches_the_published_numbers(tokens, counts, tera, ratio, mebibytes, kv_ratio):
    plan = two_stages(tokens / 576)
    assert plan.counts(576, 32) == counts
    cost = prompt_cost(SEVEN_BILLION, plan, TEXT)
    assert cost["pruned"]["flops"]["total"] / 1e12 == pytest.approx(tera, rel=4e-3)
    assert cost["ratio"]["flops"] == pytest.approx(ratio, rel=4e-3)
    assert cost["pruned"]["kv_bytes"] / 2**20 == pytest.approx(mebibytes, rel=1e-3)
    assert cost["ratio"]["kv_bytes"] == pytest.approx(kv_ratio, abs=5e-3)


def test_a_kv_token_of_llava_7b_takes_half_a_mebibyte():
    g = model_dimensions(SEVEN_BILLION)
    assert kv_bytes(g, [1] * 32, 0) == 2**19


def test_what_is_asked_for_reaches_the_closed_form():
    """Wider values take more bytes; a projector that sees all tokens, before they are dropped, more FLOPs."""
    plan, g = two_stages(32 / 576), model_dimensions(SEVEN_BILLION)
    usual, wide = (prompt_cost(SEVEN_BILLION, plan, TEXT, **more) for more in ({}, {"value_bytes": 4}))
    assert wide["pruned"]["kv_bytes"] == 2 * usual["pruned"]["kv_bytes"] and wide["ratio"] == usual["ratio"]
    late = prompt_cost(SEVEN_BILLION, plan, TEXT, projected=576)["pruned"]["flops"]
    assert late["projector"] == 2 * 576 * (1024 * 4096 + 4096 * 4096)
    assert usual["pruned"]["flops"]["projector"] == 2 * 55 * (1024 * 4096 + 4096 * 4096)
    assert {key: late[key] for key in ("vision", "llm", "head")} == {
        key: usual["pruned"]["flops"][key] for key in ("vision", "llm", "head")
    }
    assert prefill_flops(g, layer_tokens(plan, 576, 32), TEXT).total == usual["pruned"]["flops"]["total"]


def test_layers_run_on_what_the_stages_left():
    lengths = layer_tokens(two_stages(32 / 576), 576, 32)
    assert lengths == (55,) * 12 + (18,) * 20
    assert layer_tokens(None, 576, 4) == (576,) * 4


@pytest.mark.parametrize("extra", [{}, {"num_key_value_heads": 2}, {"head_dim": 40}], ids=["plain", "grouped", "wide"])
def test_closed_form_equals_the_flop_counter(extra):
    small = config((64, 160, 3, 4), (96, 200, 4, 4, {"vocab_size": 50, **extra}), 48, 8)
    model = LlavaForConditionalGeneration(small).eval()
    ids = torch.tensor([[1, 5] + [3] * 36 + [6] * 9])
    with torch.no_grad():
        counted = counted_flops(lambda: model(input_ids=ids, pixel_values=torch.rand(1, 3, 48, 48), logits_to_keep=1))
    g = model_dimensions(small)
    assert counted == prefill_flops(g, [36] * 4, 11).total


def test_another_family_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="model_type='llama' is not supported yet"):
        model_dimensions(LlamaConfig())


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision", "video_llava", "qwen2_5_vl", "qwen3_vl"])
def test_other_families_match_the_flop_counter(name, tmp_path, monkeypatch):
    """On one picture in the size that the family's count is quoted for; the tower's rotation is no matrix product."""
    monkeypatch.setattr(qwen2_5_vl, "QUOTED_SIDE", 48)
    backbone = load_backbone(FAMILIES[name].save(tmp_path))
    side, g = backbone.family.quoted_side or 32, model_dimensions(backbone.model.config)
    inputs = encode_prompts(backbone, [picture((side, side))], ["what is it ?"])
    visual = int(backbone.family.placeholders(inputs["input_ids"]).sum())
    assert (g.tokens, visual) == (backbone.family.tokens, g.tokens + g.structural)
    text = inputs["input_ids"].shape[1] - visual
    with torch.no_grad():
        counted = counted_flops(lambda: backbone.model(**inputs, logits_to_keep=1))
        held = backbone.model(**inputs, use_cache=True).past_key_values.layers
    expected = prefill_flops(g, layer_tokens(None, g.tokens, g.layers), text).total
    assert counted == pytest.approx(expected, rel=5e-3)
    width = backbone.model.dtype.itemsize
    assert sum(one.keys.nbytes + one.values.nbytes for one in held) == kv_bytes(g, [g.tokens] * g.layers, text, width)
