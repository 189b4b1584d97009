"""One run of the vision tower for teacher and student, and for all questions on an image."""

from contextlib import nullcontext

import pytest
import torch
from plans import Seen, plan
from tiny import ids, inputs, pixels, tiny_llava

from learnpruner import Plan, Signal, Stage
from learnpruner.engine.shared_vision import same_pictures, shared_vision
from learnpruner.pruners.fastervlm import FasterVLM

MODEL = tiny_llava()


@pytest.fixture
def runs():
    """How many images each run of the tower encoded."""
    seen = []
    layer = MODEL.model.vision_tower.encoder.layers[0]
    handle = layer.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    yield seen
    handle.remove()


@torch.no_grad()
def test_teacher_and_student_share_one_run(runs):
    batch = inputs([ids(1), ids(1, seed=1)])
    expected = MODEL(**batch).logits
    with plan().on(MODEL):
        pruned = MODEL(**batch).logits
    runs.clear()
    with shared_vision(MODEL):
        assert torch.equal(MODEL(**batch).logits, expected)
        with plan().on(MODEL):
            assert torch.equal(MODEL(**batch).logits, pruned)
    assert runs == [2]


@torch.no_grad()
def test_questions_on_one_image_share_its_run(runs):
    rows, index = [ids(1, seed=seed) for seed in range(5)], torch.tensor([0, 0, 1, 1, 1])
    batch, images = inputs(rows), pixels(2)
    expected = MODEL(**{**batch, "pixel_values": images[index]}).logits
    runs.clear()
    with shared_vision(MODEL, index):
        found = MODEL(**{**batch, "pixel_values": images}).logits
    assert runs == [2]
    assert (found - expected).abs().max() < 1e-5


@torch.no_grad()
def test_another_picture_is_run_again(runs):
    batch, other = inputs([ids(1)]), inputs([ids(1)], seed=1)
    with shared_vision(MODEL):
        first, second = MODEL(**batch).logits, MODEL(**other).logits
        again = MODEL(**batch).logits
    assert runs == [1, 1]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


SIGNALS = [
    (Signal("cls_attention"), Signal("vision_keys", -1)),
    (Signal("received_attention"), Signal("vision_keys")),
    (Signal("cls_attention_joined", -1), Signal("cls_state")),
]


@torch.no_grad()
def test_however_many_plans_read_the_tower_it_runs_once_more(runs):
    batch = inputs([ids(1), ids(1, seed=1)])
    apart = [Seen(*signals) for signals in SIGNALS]
    for pruner in apart:
        with Plan([Stage(pruner, "encoder")], 0.25).on(MODEL):
            MODEL(**batch)
    runs.clear()
    with shared_vision(MODEL):
        MODEL(**batch)
        for expected in apart:
            pruner = Seen(*expected.needs)
            with Plan([Stage(pruner, "encoder")], 0.25).on(MODEL):
                MODEL(**batch)
            assert pruner.seen.keys() == expected.seen.keys()
            for signal, value in pruner.seen.items():
                assert torch.equal(value, expected.seen[signal])
    assert runs == [2, 2]


@torch.no_grad()
@pytest.mark.parametrize("nested", [False, True])
def test_a_plan_that_reads_the_tower_sees_one_image_a_row(runs, nested):
    rows, index, images = [ids(1, seed=seed) for seed in range(3)], torch.tensor([0, 0, 1]), pixels(2)
    batch = {**inputs(rows), "pixel_values": images}
    alone, shared = FasterVLM(), FasterVLM()
    with Plan([Stage(alone, "encoder")], 0.25).on(MODEL) as engine:
        MODEL(**{**batch, "pixel_values": images[index]})
    expected = engine.record.kept[0]
    runs.clear()
    with shared_vision(MODEL) if nested else nullcontext(), shared_vision(MODEL, index):
        MODEL(**batch)
        for _ in range(2):
            with Plan([Stage(shared, "encoder")], 0.25).on(MODEL) as engine:
                MODEL(**batch)
            assert torch.equal(engine.record.kept[0], expected)
    assert runs == [2, 2]
    assert torch.equal(expected[0], expected[1])


@torch.no_grad()
def test_another_picture_is_watched_anew(runs):
    first, second = inputs([ids(1)]), inputs([ids(1)], seed=1)
    kept = []
    with shared_vision(MODEL), Plan([Stage(FasterVLM(), "encoder")], 0.25).on(MODEL) as engine:
        for batch in (first, second, first):
            MODEL(**batch)
            kept.append(engine.record.kept[0])
    assert runs == [1, 1]
    assert torch.equal(kept[0], kept[2])
    assert not torch.equal(kept[0], kept[1])


def test_nothing_is_left_behind():
    before = set(MODEL.model.vision_tower.__dict__)
    with pytest.raises(RuntimeError, match="boom"), shared_vision(MODEL):
        raise RuntimeError("boom")
    assert set(MODEL.model.vision_tower.__dict__) == before


def test_gradient_still_reaches_the_pruner():
    from learnpruner.pruners.learnpruner import LearnedPruner

    pruner = LearnedPruner(32)
    pruner.relaxation = lambda logits, keep, valid: (logits > 0).float() + logits.sigmoid() - logits.sigmoid().detach()
    batch = inputs([ids(1)])
    with shared_vision(MODEL):
        with torch.no_grad():
            MODEL(**batch)
        with Plan([Stage(pruner, "encoder")], 0.25).train().on(MODEL, "masked"):
            MODEL(**batch).logits[:, -3:].log_softmax(-1)[..., 0].sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in pruner.parameters())


def test_pictures_that_differ_in_one_pixel_are_not_the_same():
    one, two, three = pixels(1), pixels(1), pixels(1)
    two[0, 0, 0, 0] += 1
    assert same_pictures(one, three) and not same_pictures(one, two) and not same_pictures(one, pixels(2))


@torch.no_grad()
def test_a_call_that_asks_for_more_of_the_tower_is_a_run_of_its_own(runs):
    tower, images = MODEL.model.vision_tower, pixels(2)
    with shared_vision(MODEL):
        for _ in range(2):
            assert tower(images).hidden_states is None
            assert len(tower(images, output_hidden_states=True).hidden_states) == 4
    assert runs == [2, 2]
