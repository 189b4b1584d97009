"""What `generate` is given, by name or by its place, and what it makes up where it is given nothing."""

import pytest
import torch
from plans import KINDS, plan
from tiny import BOS, EOS, PAD, ids, inputs, tiny_llava
from transformers import GenerationConfig

MODEL = tiny_llava()
OPTIONS = {"max_new_tokens": 5, "do_sample": False}


def without_mask():
    batch = inputs([ids(1, after=9), ids(2, seed=1), ids(0, seed=2)])
    return batch, {name: value for name, value in batch.items() if name != "attention_mask"}


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_without_a_mask_is_told_by_its_token(kind, cache):
    whole, bare = without_mask()
    assert torch.equal(MODEL.generate(**bare, **OPTIONS), MODEL.generate(**whole, **OPTIONS))
    with plan(kind, 0.5).on(MODEL) as engine:
        expected = MODEL.generate(**whole, **OPTIONS)
        kept = engine.record.alive
        assert torch.equal(MODEL.generate(**bare, **OPTIONS, cache_implementation=cache), expected)
        assert all(torch.equal(*both) for both in zip(engine.record.alive, kept, strict=True))
        ready = {name: value for name, value in bare.items() if name != "input_ids"}
        assert torch.equal(MODEL.generate(bare["input_ids"], **ready, **OPTIONS), expected)


@pytest.mark.parametrize(
    ("named", "pads"),
    [
        ({"eos_token_id": EOS}, True),
        ({"eos_token_id": PAD}, False),
        ({"eos_token_id": [EOS, PAD]}, False),
        ({"pad_token_id": BOS}, True),
        ({"pad_token_id": None}, False),
        ({"generation_config": GenerationConfig(pad_token_id=PAD, eos_token_id=[EOS])}, True),
        ({"generation_config": GenerationConfig(pad_token_id=PAD, eos_token_id=PAD)}, False),
    ],
)
def test_pad_tokens_are_text_where_hugging_face_takes_them_as_such(named, pads):
    """The same answer as with the mask that the unmodified model makes up, whose masks are read here."""
    _, bare = without_mask()
    masks = []
    reading = MODEL.register_forward_pre_hook(
        lambda *given: masks.append(given[-1].get("attention_mask")), with_kwargs=True
    )
    try:
        MODEL.generate(**bare, **named, **OPTIONS)
    finally:
        reading.remove()
    made_up = torch.ones_like(bare["input_ids"]) if masks[0] is None else masks[0]
    assert bool((made_up == 0).any()) == pads
    with plan("two", 0.5).on(MODEL):
        expected = MODEL.generate(**bare, attention_mask=made_up, **named, **OPTIONS)
        assert torch.equal(MODEL.generate(**bare, **named, **OPTIONS), expected)


def test_no_cache_by_the_name_of_none_is_refused_too():
    """Hugging Face takes use_cache=None of a call for False."""
    with plan().on(MODEL), pytest.raises(ValueError, match=r"^use_cache=False"):
        MODEL.generate(**inputs([ids(1)]), use_cache=None)


@pytest.mark.parametrize("setting", [{"use_cache": False}, {"prefill_chunk_size": 8}], ids=str)
def test_a_config_given_by_its_place_is_read(setting):
    batch = inputs([ids(1)])
    words = batch.pop("input_ids")
    with plan().on(MODEL), pytest.raises(ValueError, match=f"^{next(iter(setting))}"):
        MODEL.generate(words, GenerationConfig(**setting, **OPTIONS), **batch)
