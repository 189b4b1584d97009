"""The training step: what it compares, what it trains, what it leaves alone."""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES, picture

from learnpruner.backbones import load_backbone
from learnpruner.core.relaxations import GumbelStraightThrough, SoftTopK, StraightThroughArgmax
from learnpruner.data.collate import Collate
from learnpruner.data.datamodule import SceneSource, SourceBatches
from learnpruner.data.sample import Sample
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.plan import Plan, Stage
from learnpruner.pruners.diffprune import DiffPrune
from learnpruner.pruners.learnpruner import LearnedPruner
from learnpruner.pruners.random import RandomPruner
from learnpruner.pruners.text_attention import TextAttention
from learnpruner.pruners.visionselector import VisionSelector
from learnpruner.training.forward import student_forward, teacher_forward
from learnpruner.training.losses import (
    BudgetPenalty,
    CrossEntropy,
    DistillationLoss,
    HiddenMSE,
    KLDivergence,
    default_loss,
)
from learnpruner.training.outputs import StepOutputs
from learnpruner.training.pruner_module import PrunerLitModule
from learnpruner.training.schedules import learning_rate
from tests.tiny_folder import tiny_folder

ADAMW = partial(torch.optim.AdamW, lr=1e-2)


def lit(backbone, relaxation=None, loss=None, stages=None, **kwargs):
    torch.manual_seed(0)
    stages = stages or [Stage(LearnedPruner(), "encoder", 3), Stage(TextAttention(), "12/32", 1)]
    plan = Plan(stages, 0.2).prepare(backbone.family)
    module = PrunerLitModule(backbone, plan, relaxation or SoftTopK(), loss or default_loss(), ADAMW, **kwargs)
    module.logged = {}
    module.log_dict = lambda values, **_: module.logged.update(values)
    return module


def every_term():
    return DistillationLoss(
        {"kl": KLDivergence(), "cross_entropy": CrossEntropy(), "hidden": HiddenMSE(), "budget": BudgetPenalty(100.0)}
    )


def test_the_teacher_is_the_same_in_eager_attention(backbone, batch):
    model = backbone.model
    assert batch.prefix and batch.most > 1
    expected = teacher_forward(model, batch).logits
    try:
        model.set_attn_implementation("eager")
        found = teacher_forward(model, batch).logits
    finally:
        model.set_attn_implementation("sdpa")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_teacher_with_shared_prefix_equals_the_plain_pass(backbone):
    samples = [SceneSource(questions=3).sample(i) for i in range(3)]
    samples[1] = Sample(samples[1].image, samples[1].turns[:1], "fewer questions")
    batch = Collate(backbone.processor)(samples)
    assert batch.prefix and batch.most == 3
    shared, plain = (teacher_forward(backbone.model, b, hidden=True) for b in (batch, replace(batch, prefix=0)))
    torch.testing.assert_close(shared.logits, plain.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared.hidden, plain.hidden, atol=1e-5, rtol=1e-5)
    assert torch.equal(shared.targets, plain.targets)
    with torch.no_grad():
        logits = backbone.model(**batch.rows()).logits
    rows, columns = batch.answers.T
    torch.testing.assert_close(shared.logits, logits[rows, columns], atol=1e-5, rtol=1e-5)
    assert (plain.logits[0] - plain.logits[1]).abs().max() > 0.1


@pytest.mark.parametrize("padding", ["left", "right"])
def test_answers_do_not_depend_on_padding(backbone, padding, batch):
    samples = [SceneSource(questions=3).sample(i) for i in range(2)]
    padded = Collate(backbone.processor, padding)(samples)
    torch.testing.assert_close(
        teacher_forward(backbone.model, padded).logits, teacher_forward(backbone.model, batch).logits
    )


@pytest.mark.parametrize("relaxation", [SoftTopK(), StraightThroughArgmax(), GumbelStraightThrough()])
@pytest.mark.parametrize("pool", [None, 8])
def test_gradient_reaches_the_pruner_and_nothing_else(backbone, batch, relaxation, pool):
    module = lit(backbone, relaxation, every_term(), grad_tokens_per_image=pool)
    module.training_step(batch, 0).backward()
    for name, parameter in module.plan.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())
    parts = {"kl", "cross_entropy", "hidden"} | (set() if relaxation.meets_budget else {"budget"})
    assert {"loss", "tokens"} | parts == set(module.logged)


def test_only_pruner_weights_are_parameters_of_the_module(backbone):
    module = lit(backbone)
    assert {name.split(".")[0] for name in module.state_dict()} == {"plan"}
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in module.plan.parameters())


def test_training_lowers_the_loss_on_a_batch(tmp_path):
    backbone = load_backbone(tiny_folder(tmp_path, seed=1))  # random weights whose loss a choice of tokens can lower
    batch = SourceBatches(SceneSource(questions=3), Collate(backbone.processor), images=2)[0]
    module = lit(backbone)
    optimizer = module.optimizer(list(module.parameters()))
    losses = []
    for _ in range(25):
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_vision_tower_runs_once_an_image_and_a_step(backbone, batch):
    seen = []
    handle = backbone.model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs.get("pixel_values", args[0] if args else None))),
        with_kwargs=True,
    )
    layer = backbone.model.model.vision_tower.encoder.layers[0].register_forward_hook(lambda *_: ran.append(1))
    ran: list[int] = []
    lit(backbone).training_step(batch, 0)
    handle.remove()
    layer.remove()
    assert len(ran) == 1 and set(seen) == {2}


def test_realised_budget_is_the_plan_s_where_the_relaxation_meets_it(backbone, batch):
    module = lit(backbone, SoftTopK())
    module.training_step(batch, 0)
    assert float(module.logged["tokens"]) == pytest.approx(module.plan.tokens(64, 8)["averaged"])


def test_answers_without_teacher_skip_its_pass(backbone, batch, monkeypatch):
    monkeypatch.setattr(
        "learnpruner.training.pruner_module.teacher_forward", lambda *_: pytest.fail("the unpruned model ran")
    )
    lit(backbone, loss=DistillationLoss({"cross_entropy": CrossEntropy()})).training_step(batch, 0)


def test_randomness_is_a_function_of_seed_and_leaves_the_global_state_alone(backbone, batch):
    state = torch.get_rng_state()
    losses = [
        float(lit(backbone, GumbelStraightThrough(), grad_tokens_per_image=4, seed=s).training_step(batch, 0).detach())
        for s in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    module = lit(backbone, GumbelStraightThrough())
    torch.set_rng_state(state)
    module.training_step(batch, 0)
    assert torch.equal(state, torch.get_rng_state())


def test_step_leaves_no_trace_on_the_model(backbone, batch):
    before = teacher_forward(backbone.model, batch).logits
    lit(backbone).training_step(batch, 0)
    assert torch.equal(teacher_forward(backbone.model, batch).logits, before)
    assert "generate" not in backbone.model.__dict__
    assert "forward" not in backbone.model.model.vision_tower.__dict__


def test_half_precision_keeps_the_pruner_in_float32(backbone, batch):
    full = float(lit(backbone).training_step(batch, 0).detach())
    module = lit(backbone)
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.training_step(batch, 0)
    loss.backward()
    assert {p.grad.dtype for p in module.parameters()} == {torch.float32}
    assert float(loss.detach()) == pytest.approx(full, rel=0.15) and float(loss.detach()) != full


def test_a_float16_backbone_gives_the_gradient_of_float32(tmp_path):
    folder, found = tiny_folder(tmp_path, seed=1), {}
    for dtype in ("float32", "float16"):
        backbone = load_backbone(folder, dtype=dtype)
        module = lit(backbone, loss=every_term())
        module.training_step(
            SourceBatches(SceneSource(questions=3), Collate(backbone.processor), images=2)[0], 0
        ).backward()
        assert {p.grad.dtype for p in module.parameters()} == {torch.float32}
        found[dtype] = torch.cat([p.grad.flatten() for p in module.parameters()])
    difference = (found["float16"] - found["float32"]).norm() / found["float32"].norm()
    assert 0 < difference < 0.05


def test_student_answers_are_those_of_the_pruned_model(backbone, batch):
    module = lit(backbone)
    module.eval()
    with torch.no_grad():
        with shared_vision(backbone.model, batch.image_index), module.plan.on(backbone.model, "masked") as engine:
            engine.query_rows(batch.prompt_mask)
            masked = student_forward(backbone.model, batch).logits
        with module.plan.on(backbone.model) as engine:
            engine.query_rows(batch.prompt_mask)
            physical = backbone.model(**batch.rows()).logits
    rows, columns = batch.answers.T
    torch.testing.assert_close(masked, physical[rows, columns], atol=1e-5, rtol=1e-5)
    assert (masked - teacher_forward(backbone.model, batch).logits).abs().max() > 0.1


def test_plan_without_weights_is_refused_with_a_sentence(backbone):
    with pytest.raises(ValueError, match="no weights to train"):
        lit(backbone, stages=[Stage(RandomPruner(), "encoder")])


def test_learning_rate_rises_then_falls_to_the_floor():
    shares = [learning_rate(step, 100, 0.1, 0.02) for step in range(100)]
    assert shares[0] == pytest.approx(0.1) and max(shares) == 1 == shares[9]
    assert shares[-1] == pytest.approx(0.02)
    assert all(a >= b for a, b in pairwise(shares[9:]))
    assert learning_rate(0, 1, 0.05, 0.02) > 0


@pytest.mark.parametrize("kind", [VisionSelector, DiffPrune])
def test_where_every_token_stays_the_shared_prefix_answers_as_rows_of_their_own(backbone, batch, kind, monkeypatch):
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)  # one noise for an image, however often it is shown
    module = lit(backbone, loss=every_term(), stages=[Stage(kind(), 0)])
    module.plan.stages[0].pruner.anneal(0.5)
    shared, record = module.student_forward(batch)
    monkeypatch.setattr(kind, "keeps_all", False)
    plain, _ = module.student_forward(batch)
    torch.testing.assert_close(shared.logits, plain.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared.hidden, plain.hidden, atol=1e-5, rtol=1e-5)
    assert len(record.selections[0].index) == len(batch.first_rows) < len(batch.input_ids)
    gradients = [torch.autograd.grad(a.logits.square().sum(), list(module.parameters())) for a in (shared, plain)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
        assert one.abs().max() > 0


def test_losses_of_a_decision_are_added_and_logged(backbone, batch):
    module = lit(backbone, stages=[Stage(VisionSelector(), 0)])
    loss = module.training_step(batch, 0)
    assert set(module.logged) == {"loss", "kl", "bce"}
    torch.testing.assert_close(loss.detach(), module.logged["kl"] + module.logged["bce"])


def test_without_losses_of_its_own_the_loss_is_the_sum_of_terms_bit_for_bit(backbone, batch):
    found = lit(backbone, GumbelStraightThrough(), grad_tokens_per_image=8).training_step(batch, 0)
    module = lit(backbone, GumbelStraightThrough(), grad_tokens_per_image=8)
    with module.step_randomness(), shared_vision(backbone.model):
        aim = teacher_forward(backbone.model, batch)
        with (
            shared_vision(backbone.model, batch.image_index),
            module.plan.on(backbone.model, "masked", pool=8) as engine,
        ):
            engine.query_rows(batch.prompt_mask)
            said = student_forward(backbone.model, batch)
    assert torch.equal(found, module.loss(StepOutputs(said, aim, module.stage_gates(engine.record, batch)))[0])


def test_pruners_learn_how_far_the_training_is(backbone, batch):
    module, seen = lit(backbone), []
    module.plan.stages[0].pruner.anneal = seen.append
    for step in (0, 1, 4):
        module._trainer = SimpleNamespace(
            global_step=step, max_steps=5, global_rank=0, world_size=1, fit_loop=SimpleNamespace(total_batch_idx=step)
        )
        module.training_step(batch, step)
    assert seen == [0.0, 0.25, 1.0]


def test_the_budget_term_counts_an_image_s_own_tokens_where_images_differ_in_size(tmp_path):
    backbone = load_backbone(FAMILIES["llava_next"].save(tmp_path))
    samples = [Sample(picture(size, i), [("what color?", "red")], "") for i, size in enumerate([(64, 64), (40, 90)])]
    module = lit(backbone, StraightThroughArgmax(), stages=[Stage(LearnedPruner(), "encoder")])

    def budget(some):
        module.training_step(Collate(backbone.processor)(some), 0)
        return float(module.logged["budget"]), float(module.logged["tokens"])

    (first, kept), (second, left) = budget(samples[:1]), budget(samples[1:])
    assert budget(samples) == pytest.approx(((first + second) / 2, (kept + left) / 2), rel=1e-5)
    assert abs(first - second) > 1e-5


def test_the_budget_term_of_each_stage_has_the_budget_of_that_stage(backbone, batch):
    module = lit(
        backbone, StraightThroughArgmax(), stages=[Stage(LearnedPruner(), at, share) for at, share in ((0, 3), (4, 1))]
    )
    gates = module.stage_gates(module.student_forward(batch)[1], batch)
    counts = module.plan.counts(64, 8)
    assert counts[0] > 2 * counts[1] and [share.tolist() for _, share, *_ in gates] == [[n / 64] * 2 for n in counts]
    module.training_step(batch, 0)
    missed = [(gate.detach().sum(1) / 64 - n / 64).square().mean() for (gate, *_), n in zip(gates, counts, strict=True)]
    torch.testing.assert_close(module.logged["budget"], sum(missed))


def test_each_loss_of_a_decision_counts(backbone, batch, monkeypatch):
    forward = VisionSelector.forward

    def two(self, view, keep):
        chosen = forward(self, view, keep)
        return replace(chosen, losses={**chosen.losses, "other": 2 * chosen.losses["bce"]})

    monkeypatch.setattr(VisionSelector, "forward", two)
    module = lit(backbone, stages=[Stage(VisionSelector(), 0)])
    loss = module.training_step(batch, 0)
    torch.testing.assert_close(loss.detach(), module.logged["kl"] + 3 * module.logged["bce"])


def test_processes_draw_what_one_that_accumulates_draws(backbone):
    def drawn(batch, world=1, rank=0):
        module = lit(backbone, seed=3)
        loop = SimpleNamespace(total_batch_idx=batch)
        module._trainer = SimpleNamespace(fit_loop=loop, world_size=world, global_rank=rank)
        with module.step_randomness():
            return torch.rand(4)

    assert torch.equal(drawn(1, 2, 0), drawn(2)) and torch.equal(drawn(1, 2, 1), drawn(3))
    assert len({float(drawn(batch, 2, rank)[0]) for batch in range(3) for rank in range(2)}) == 6
