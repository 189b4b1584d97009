"""Labels by search: what the frozen model charges for a set of tokens, and a step that learns from it alone."""

import pytest
import torch
import torch.nn.functional as F

from learnpruner.core.signals import TEXT_EMBEDS, TEXT_MASK
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.plan import Plan, Stage
from learnpruner.pruners.evocomp import EvoComp
from learnpruner.pruners.text_attention import TextAttention
from learnpruner.training.label_search import label_search_loss, loss_of_kept_sets, observe_stage
from learnpruner.training.label_search_module import LabelSearchLitModule
from tests.plans import masked_reference

SMALL = {"searches": 2, "population": 6, "parents": 2, "generations": 1}


def make(backbone, stages=()):
    torch.manual_seed(0)
    plan = Plan([Stage(EvoComp(**SMALL), 0), *stages], 0.2).prepare(backbone.family)
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=1e-2)  # noqa: E731
    module = LabelSearchLitModule(backbone, plan, optimizer)
    module.logged = {}
    module.log_dict = lambda values, **_: module.logged.update(values)
    return module


def test_the_cost_of_a_set_is_the_unmodified_model_s_loss_with_the_others_masked_out(backbone, batch):
    sets = torch.rand(len(batch.input_ids), 64) < 0.3
    with shared_vision(backbone.model):
        found = loss_of_kept_sets(backbone.model, 0, batch, sets)
    image = batch.input_ids == backbone.processor.image_token_id
    alive = batch.attention_mask.bool() & (~image).masked_scatter(image, sets)
    logits = masked_reference(backbone.model, batch.rows(), (0,), [alive])
    for row in range(len(sets)):
        targets = batch.labels[row, 1:]
        expected = F.cross_entropy(logits[row, :-1], targets, ignore_index=-100)
        assert float(found[row]) == pytest.approx(float(expected), abs=1e-4)


def test_the_view_is_what_the_stage_would_see_a_row_a_question(backbone, batch):
    module = make(backbone)
    view, keep = observe_stage(backbone.model, module.plan, batch)
    words = backbone.model.get_input_embeddings()
    features = backbone.model.get_image_features(batch.pixel_values[batch.image_index]).pooler_output
    torch.testing.assert_close(view.tokens, torch.stack(list(features)))
    for row in range(len(batch.input_ids)):
        expected = words(batch.input_ids[row][batch.prompt_mask[row]])
        torch.testing.assert_close(view[TEXT_EMBEDS][row][view[TEXT_MASK][row]], expected)
    assert keep.tolist() == [13] * len(batch.input_ids)  # 0.2 x 64


def test_gradient_reaches_the_pruner_and_nothing_else(backbone, batch):
    module = make(backbone)
    module.training_step(batch, 0).backward()
    for name, parameter in module.plan.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())
    assert set(module.logged) == {"loss", "ghm", "apart"}


def test_a_step_asks_as_many_questions_as_it_says_and_the_tower_runs_once(backbone, batch, monkeypatch):
    asked, ran = [], []
    monkeypatch.setattr(
        "learnpruner.training.label_search.loss_of_kept_sets",
        lambda model, at, few, sets: asked.append(len(sets)) or loss_of_kept_sets(model, at, few, sets),
    )
    layer = backbone.model.model.vision_tower.encoder.layers[0]
    handle = layer.register_forward_hook(lambda *_: ran.append(1))
    make(backbone).training_step(batch, 0)
    handle.remove()
    assert asked == [2 * 6, 2 * 4] and len(ran) <= 2  # once more where the step leaves an image out


def test_a_lesson_depends_on_the_random_state_only(backbone, batch):
    module = make(backbone)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(
            {
                name: float(value.detach())
                for name, value in label_search_loss(backbone.model, module.plan, batch).items()
            }
        )
    assert losses[0] == losses[1] != losses[2]


def test_a_search_beside_another_stage_is_refused(backbone, batch):
    with pytest.raises(ValueError, match="as the only stage, not as one of 2"):
        make(backbone, [Stage(TextAttention(), 4, 0.5)]).training_step(batch, 0)


def test_the_questions_of_a_step_are_drawn_from_all_of_the_batch(backbone, batch, monkeypatch):
    class Picked(Exception):
        pass

    def pick(self, rows):
        raise Picked(rows.tolist())

    monkeypatch.setattr("learnpruner.data.collate.Batch.pick", pick)
    plan, drawn = make(backbone).plan, []
    for seed in range(20):
        torch.manual_seed(seed)
        with pytest.raises(Picked) as picked:
            label_search_loss(backbone.model, plan, batch)
        drawn.append(picked.value.args[0])
    assert all(len(rows) == SMALL["searches"] and rows == sorted(set(rows)) for rows in drawn)
    assert {row for rows in drawn for row in rows} == set(range(len(batch.input_ids)))
