"""One run of the vision tower for teacher and student, and for all questions on an image."""

import pytest
import torch
from plans import plan
from tiny import ids, inputs, pixels, tiny_llava

from learnpruner import Plan, Stage
from learnpruner.backbones import shared_vision
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


@torch.no_grad()
def test_a_plan_that_reads_the_tower_runs_it_again_on_one_image_a_row(runs):
    rows, index, images = [ids(1, seed=seed) for seed in range(3)], torch.tensor([0, 0, 1]), pixels(2)
    batch = {**inputs(rows), "pixel_values": images}
    watching = Plan([Stage(FasterVLM(), "encoder")], 0.25)
    with shared_vision(MODEL, index):
        MODEL(**batch)
        with watching.on(MODEL) as engine:
            MODEL(**batch)
    assert runs == [2, 3]
    assert torch.equal(engine.record.kept[0][0], engine.record.kept[0][1])


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
