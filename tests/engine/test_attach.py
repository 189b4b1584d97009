"""Attaching is a context: it leaves no trace, whatever happens inside."""

import gc
import weakref

import pytest
import torch
from plans import KINDS, Norm, plan
from tiny import ids, inputs, tiny_llava

from learnpruner import Plan, Stage
from learnpruner.engine.attention_hook import is_hooked
from learnpruner.engine.engine import _ATTRIBUTE
from learnpruner.pruners.fastervlm import FasterVLM
from learnpruner.pruners.random import RandomPruner
from learnpruner.pruners.text_attention import TextAttention


def traces(model):
    """Everything about every module that attaching could change."""
    found = {}
    for name, module in model.named_modules():
        found[name] = (type(module), set(module.__dict__), id(getattr(module, "config", None)), module.training)
        hooks = [v for k, v in module.__dict__.items() if "hooks" in k]
        found[name] += (tuple(len(h) for h in hooks if hasattr(h, "__len__")),)
    configs = (repr(model.config), repr(model.generation_config), model.config._attn_implementation)
    return found, getattr(model.generate, "__func__", None), tuple(model.state_dict()), configs


def warm():
    """A model that has run once: Hugging Face installs some hooks of its own then."""
    model = tiny_llava()
    model.generate(**inputs([ids(1)]), max_new_tokens=2)
    return model


def watching():
    return Plan([Stage(FasterVLM(), "encoder", 2), Stage(RandomPruner(), 0, 2), Stage(TextAttention(), 2, 1)], 0.5)


@pytest.mark.parametrize("mode", ["physical", "masked"])
@pytest.mark.parametrize("make", [watching, *[lambda kind=kind: plan(kind, 0.5) for kind in KINDS]])
def test_attach_and_detach_leave_no_trace(make, mode):
    model, batch = warm(), inputs([ids(1), ids(2)])
    before = traces(model)
    with make().on(model, mode):
        assert traces(model) != before
        model(**batch)
        if mode == "physical":
            model.generate(**batch, max_new_tokens=2)
    assert traces(model) == before


def test_an_exception_inside_leaves_no_trace_and_no_call_under_way():
    model, batch = warm(), inputs([ids(1)])
    before = traces(model)
    wrong = {**batch, "pixel_values": torch.cat([batch["pixel_values"]] * 2)}  # more images than placeholders
    with pytest.raises(RuntimeError, match="boom"), plan().on(model) as engine:
        for call in (model, lambda **kw: model.generate(**kw, max_new_tokens=2)):
            with pytest.raises(ValueError, match="do not match"):
                call(**wrong)
            assert call(**batch) is not None  # the next call works
            engine.verify()
        raise RuntimeError("boom")
    assert traces(model) == before


def test_nothing_is_parked_on_the_model_between_calls():
    model, batch = warm(), inputs([ids(1)])
    with plan().on(model):
        attached = traces(model)
        model(**batch)
        assert traces(model) == attached


def test_a_plan_without_stages_touches_nothing():
    model = tiny_llava()
    before = traces(model)
    with Plan().on(model) as engine:
        assert model.__dict__.pop(_ATTRIBUTE) is engine  # the mark that it carries a plan
        assert traces(model) == before
        model.__dict__[_ATTRIBUTE] = engine
    assert traces(model) == before
    assert engine.record is None


def test_attach_and_detach_by_hand():
    model, batch, pruned = warm(), inputs([ids(1)]), plan()
    before, expected = traces(model), model(**batch).logits
    engine = pruned.attach(model)
    assert not torch.equal(model(**batch).logits, expected)
    engine.verify()
    with pytest.raises(ValueError, match="already carries a plan"):
        plan().attach(model)
    pruned.detach(model)
    assert torch.equal(model(**batch).logits, expected)
    assert traces(model) == before
    with pytest.raises(ValueError, match="carries no plan"):
        pruned.detach(model)


def test_only_the_layers_that_are_read_leave_plain_attention():
    model = tiny_llava()
    with plan("two").on(model):
        driven = [is_hooked(layer.self_attn) for layer in model.model.language_model.layers]
        assert driven == [False, True, False, False, False, False]
    with Plan([Stage(FasterVLM(), "encoder")], 0.5).on(model):
        assert [is_hooked(layer.self_attn) for layer in model.model.vision_tower.encoder.layers] == [False, True, False]


def test_the_core_model_is_pruned_too():
    model, batch = tiny_llava(), inputs([ids(1)])
    with plan().on(model) as engine:
        expected = model(**batch).logits
        record, engine.record = engine.record, None
        found = model.model(**batch).last_hidden_state
        assert torch.equal(model.lm_head(found), expected)
        assert torch.equal(engine.record.kept[0], record.kept[0])


def test_the_attention_function_may_change_while_attached():
    model, batch = tiny_llava(), inputs([ids(1)])
    with plan().on(model):
        expected = model(**batch).logits
        model.set_attn_implementation("eager")
        found = model(**batch).logits
    assert (found - expected).abs().max() < 1e-4


def test_peft_wrappers_are_looked_through():
    peft = pytest.importorskip("peft")
    model, batch = tiny_llava(), inputs([ids(1)])
    with plan().on(model):
        expected = model(**batch).logits
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2)
    wrapped = peft.get_peft_model(model, config).eval()
    with plan().on(wrapped) as engine:
        found = wrapped(**batch).logits
        wrapped.generate(**batch, max_new_tokens=2)
        engine.verify()
    assert (found - expected).abs().max() < 1e-5


def test_two_models_carry_two_plans():
    a, b, batch = tiny_llava(seed=1), tiny_llava(seed=2), inputs([ids(1)])
    with plan("encoder").on(a) as first, Plan([Stage(Norm(), "encoder")], 0.5).on(b) as second:
        a(**batch)
        b(**batch)
    assert first.record.tokens[0].item() == 9
    assert second.record.tokens[0].item() == 18


def test_a_model_can_be_freed_after_its_plan():
    model, batch = tiny_llava(), inputs([ids(1)])
    with plan().on(model):
        model.generate(**batch, max_new_tokens=2)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_what_somebody_has_bound_before_is_bound_again():
    model, batch = tiny_llava(), inputs([ids(1)])
    calls, original = [], model.forward
    model.forward = earlier = lambda *args, **kwargs: (calls.append(1), original(*args, **kwargs))[1]
    with plan("two").on(model) as engine:
        model(**batch)
        engine.verify()
    assert model.__dict__["forward"] is earlier and calls == [1]


@torch.no_grad()
def test_what_somebody_has_bound_since_stays():
    model, batch = tiny_llava(), inputs([ids(1)])
    expected, pruned = model(**batch).logits, plan("two")
    pruned.attach(model)
    bound = model.forward
    model.forward = theirs = lambda *args, **kwargs: bound(*args, **kwargs)
    pruned.detach(model)
    assert model.__dict__["forward"] is theirs and torch.equal(model(**batch).logits, expected)


@torch.no_grad()
def test_without_a_cache_none_is_filled():
    model, batch = tiny_llava(), inputs([ids(1)])
    with plan("two").on(model) as engine:
        expected = model(**batch).logits
        out = model(**batch, use_cache=False)
        assert out.past_key_values is None and torch.equal(out.logits, expected) and not engine.record.cached
        with pytest.raises(RuntimeError, match="kept no KV cache"):
            engine.verify()
