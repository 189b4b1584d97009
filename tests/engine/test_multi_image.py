"""Pruners that choose across the images of a prompt."""

from dataclasses import replace

import pytest
import torch
from plans import masked_reference, real, text
from tiny import LAYERS, TOKENS, ids, inputs, tiny_llava

from learnpruner import Plan, Pruner, ScorePruner, Selection, Signal, Stage, View
from learnpruner.core.selection import top_k_selection
from learnpruner.engine.multi_image import PromptImages, choose_jointly

MODEL = tiny_llava()
CLS, KEY = Signal("cls_attention"), Signal("image_key")
ROWS = [ids(1), ids(3, seed=1), ids(0, seed=2), ids(2, seed=3)]


class Strongest(ScorePruner):
    """The best by [CLS] attention among all images of a prompt; remembers what it saw."""

    joint, needs = True, frozenset({CLS, KEY})

    def __init__(self):
        super().__init__()
        self.seen = []

    def score(self, view):
        self.seen.append(view)
        return view[CLS].mean(1)


class Mean(Pruner):
    """Keeps the last tokens of a prompt's images and makes each the mean of all."""

    joint = True

    def forward(self, view, keep):
        order = torch.arange(view.tokens.shape[1], dtype=torch.float32).expand(view.tokens.shape[:2])
        chosen = top_k_selection(order, keep, view.valid)
        real = torch.ones_like(order) if view.valid is None else view.valid.float()
        rows = (real / real.sum(1, keepdim=True))[:, None].expand(-1, chosen.index.shape[1], -1)
        return Selection(chosen.index, chosen.valid, merge=rows)


@torch.no_grad()
def run(plan, batch, mode="physical"):
    with plan.on(MODEL, mode) as engine:
        return MODEL(**batch).logits, engine.record


@pytest.mark.parametrize("at", ["encoder", 0])
def test_images_of_a_prompt_share_its_budget(at):
    pruner = Strongest()
    plan, batch = Plan([Stage(pruner, at)], 0.25).eval(), inputs(ROWS)
    _, record = run(plan, batch)
    assert [view.frames for view in pruner.seen] == [1, 3, 2]  # as many images as the prompt shows, alone or in a batch
    scores = [view[CLS][0].mean(0) for view in pruner.seen]
    kept = record.kept[0].split([1, 3, 2])
    for row, each, images in zip(scores, kept, (1, 3, 2), strict=True):
        best = row.sort(descending=True, stable=True).indices[: images * round(TOKENS * 0.25)]
        assert each.flatten().nonzero()[:, 0].tolist() == best.sort().values.tolist()
    assert len(set(record.tokens[0][1:4].tolist())) > 1  # some images have more of it than others


def test_what_it_sees_of_a_prompt_is_what_its_images_have():
    alone, joint = Strongest(), Strongest()
    alone.joint = False
    batch = inputs(ROWS)
    run(Plan([Stage(alone, "encoder")], 0.5).eval(), batch)
    run(Plan([Stage(joint, "encoder")], 0.5).eval(), batch)
    (images,) = alone.seen
    for view, own in zip(joint.seen, [[0], [1, 2, 3], [4, 5]], strict=True):
        assert torch.equal(view.tokens[0], images.tokens[own].flatten(0, 1))
        assert torch.equal(view[CLS][0], torch.cat([images[CLS][i] for i in own], -1))
        assert view[KEY].tolist() == [images[KEY][own[0]]]
        assert view.valid is None and view.frames == len(own)


@pytest.mark.parametrize("pruner", [Strongest(), Mean()])
@pytest.mark.parametrize("images", [2, 3])
def test_dropping_equals_masking_with_several_images(pruner, images):
    batch = inputs([ids(images), ids(1, seed=1)])
    plan = Plan([Stage(pruner, "encoder")], 0.25).eval()
    logits, record = run(plan, batch)
    masked, other = run(plan, batch, "masked")
    assert torch.equal(record.kept[0], other.kept[0])
    assert (logits - masked)[real(batch)].abs().max() < 1e-5
    if not isinstance(pruner, Mean):
        expected = masked_reference(MODEL, batch, (0,), record.alive)
        assert (logits - expected)[text(batch)].abs().max() < 1e-5


@pytest.mark.parametrize("pruner", [Strongest(), Mean()])
def test_a_batch_equals_its_rows_alone(pruner):
    plan, batch = Plan([Stage(pruner, "encoder")], 0.25).eval(), inputs(ROWS)
    together, _ = run(plan, batch)
    first = 0
    for number, row in enumerate(ROWS):
        count = row.count(120) // TOKENS
        alone = inputs([row])
        if count:
            alone["pixel_values"] = batch["pixel_values"][first : first + count]
        logits, _ = run(plan, alone)
        assert (together[number, -len(row) :] - logits[0]).abs().max() < 1e-5
        first += count


def test_weight_rows_reach_across_images():
    tokens = torch.randn(3, 4, 8)
    found = choose_jointly(Mean(), View(tokens), [2, 2, 2], torch.tensor([0, 0, 1]))
    mean = tokens[:2].flatten(0, 1).mean(0)
    assert found.mask(4).tolist() == [[False] * 4, [True] * 4, [False, False, True, True]]
    assert torch.allclose(found.apply(tokens)[1], mean.expand(4, 8))
    assert torch.allclose(found.apply(tokens)[2, :2], tokens[2].mean(0).expand(2, 8))


def test_videos_of_one_prompt_join_their_frames():
    seen = {}

    class Look(Mean):
        def forward(self, view, keep):
            seen["view"] = view
            return super().forward(view, keep)

    view = View(torch.randn(3, 8, 4), grid=(2, 2), frames=2)
    choose_jointly(Look(), view, [2, 2, 2], torch.tensor([0, 0, 1]))
    assert seen["view"].frames == 4
    choose_jointly(Look(), view, [2, 2, 2], torch.tensor([0, 1, 2]))
    assert seen["view"].frames == 2


def test_joining_and_splitting_are_inverse():
    frames = PromptImages(torch.tensor([0, 0, 2, 5, 5, 5]))
    x = torch.randn(6, 4, 8)
    assert torch.equal(frames.split(frames.join(x)), x)
    assert torch.equal(frames.join(x.movedim(1, 2), 2), frames.join(x).movedim(1, 2))


def test_it_generates_and_every_layer_holds_the_budget_of_its_prompt():
    batch = inputs(ROWS)
    with Plan([Stage(Strongest(), "encoder", 3), Stage(Mean(), 0, 1)], 0.25).on(MODEL) as engine:
        MODEL.generate(**batch, max_new_tokens=3)
        engine.verify()
        assert engine.record.averaged == pytest.approx(TOKENS * 0.25, abs=0.5)
    assert len(engine.record.cached) == LAYERS


def test_keeping_all_is_the_identity():
    batch = inputs(ROWS)
    logits, _ = run(Plan([Stage(Strongest(), "encoder")], 1.0).eval(), batch)
    with torch.no_grad():
        assert torch.equal(logits, MODEL(**batch).logits)


def test_inside_the_language_model_there_are_no_images_to_choose_across():
    with pytest.raises(ValueError, match="across the images"), Plan([Stage(Mean(), 2)], 0.5).on(MODEL):
        pass


def test_tokens_that_are_not_there_stay_so_where_every_prompt_has_as_many_images():
    valid = torch.rand(4, 6) < 0.5
    joined = PromptImages(torch.tensor([0, 0, 1, 1])).view(View(torch.randn(4, 6, 8), valid))
    assert torch.equal(joined.valid, valid.view(2, 12))


def test_what_a_joint_decision_adds_to_the_loss_is_handed_on():
    class Told(Mean):
        def forward(self, view, keep):
            return replace(super().forward(view, keep), losses={"own": torch.tensor(3.0)})

    found = choose_jointly(Told(), View(torch.randn(3, 4, 8)), [2, 2, 2], torch.tensor([0, 0, 1]))
    assert found.losses == {"own": 3.0}
