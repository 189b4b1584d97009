"""Copies of a model that carries a plan, compiled models, and models that are let go."""

import copy
import gc
import weakref

import pytest
import torch
from plans import plan
from tiny import ids, inputs, tiny_llava

BATCH = inputs([ids(1), ids(2, seed=1)])
OPTIONS = {"max_new_tokens": 4, "do_sample": False}


@pytest.mark.parametrize("kind", ["two", "three"])
@torch.no_grad()
def test_a_deep_copy_carries_a_plan_of_its_own(kind):
    model, other = tiny_llava(), tiny_llava(seed=1)
    with plan(kind, 0.5).on(other):
        expected = said(other)
    with plan(kind, 0.5).on(model):
        mine = said(model)
        twin = copy.deepcopy(model)
        twin.load_state_dict(other.state_dict())  # other weights: whose run shows in the tokens
        for found, wanted in zip(said(twin), expected, strict=True):
            assert torch.equal(found, wanted)
        for found, wanted in zip(said(model), mine, strict=True):
            assert torch.equal(found, wanted)
    for found, wanted in zip(said(twin), expected, strict=True):  # the original's plan is off, the twin's is on
        assert torch.equal(found, wanted)
    plan(kind, 0.5).detach(twin)
    assert torch.equal(twin(**BATCH).logits, other(**BATCH).logits)


def said(model):
    return model(**BATCH).logits, model.generate(**BATCH, **OPTIONS)


@torch.no_grad()
def test_a_replica_that_shares_hooks_is_not_run_by_the_original():
    """DataParallel copies modules without their hooks' owners: such a replica passes unpruned or raises, never mixes."""
    model = tiny_llava()
    expected = model(**BATCH).logits
    with plan("two", 0.5).on(model):
        copied = copy.copy(model)  # shares all submodules: the same plan, the same answers
        assert torch.equal(copied(**BATCH).logits, model(**BATCH).logits)
    assert torch.equal(copied(**BATCH).logits, expected)


@pytest.mark.parametrize("how", ["detach", "drop"])
def test_a_model_that_nobody_holds_is_freed(how):
    model, pruned = tiny_llava(layers=2), plan("encoder")
    pruned.attach(model)
    model.generate(**inputs([ids(1)]), max_new_tokens=2)
    if how == "detach":
        pruned.detach(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_copied_cache_does_not_copy_the_model():
    model = tiny_llava()
    with plan("two").on(model), torch.no_grad():
        cache = model(**BATCH).past_key_values
        session = copy.deepcopy(cache).session
    assert session.language_model is model.model.language_model


@torch.no_grad()
def test_compiled_before_or_after_a_plan_is_put_on():
    model, batch = tiny_llava(layers=3), inputs([ids(1)])
    plain, compiled = model(**batch).logits, torch.compile(model, backend="eager")
    for kind, ratio in (("inside", 0.7), ("encoder", 0.5)):  # compiled under the first, it must not stay so
        with plan(kind, ratio).on(model) as engine:
            expected = model(**batch).logits
            found = compiled(**batch).logits
            engine.verify()
        assert (found - expected).abs().max() < 1e-5
        assert (found - plain).abs().max() > 1e-2
        if kind == "inside":
            assert (compiled(**batch).logits - plain).abs().max() < 1e-5
    torch.compiler.reset()


@torch.no_grad()
def test_what_was_compiled_and_run_before_a_plan_is_compiled_anew():
    model, batch, pruned = tiny_llava(layers=2), inputs([ids(1)]), plan("encoder", 0.5)
    plain, compiled = model(**batch).logits, torch.compile(model, backend="eager")
    try:
        assert (compiled(**batch).logits - plain).abs().max() < 1e-5
        with pruned.on(model) as engine:
            expected, found = model(**batch).logits, compiled(**batch).logits
            engine.verify()
        assert (found - expected).abs().max() < 1e-5
        assert (found - plain).abs().max() > 1e-2
    finally:
        torch.compiler.reset()
