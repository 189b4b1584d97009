"""Training with an adapter: what learns, what does not, and that a run can be broken off anywhere."""

import copy
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train import losses, place, run, weights  # noqa: F401  fixtures

import learnpruner
from learnpruner.adapters import LoraAdapter, ProjectorAdapter
from learnpruner.benchmarks.scenes import ScenesBenchmark as Questions
from learnpruner.core.relaxations import GumbelStraightThrough
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.evaluation.evaluator import evaluate
from learnpruner.evaluation.results import UNPRUNED
from learnpruner.plan import Plan, Stage
from learnpruner.pruners.evocomp import EvoComp
from learnpruner.pruners.learnpruner import LearnedPruner
from learnpruner.pruners.text_attention import TextAttention
from learnpruner.pruners.uniform import UniformPruner
from learnpruner.pruners.visionselector import VisionSelector
from learnpruner.training.choose_module import make_plan_module
from learnpruner.training.forward import teacher_forward
from learnpruner.training.losses import CrossEntropy, DistillationLoss, default_loss
from learnpruner.training.pruner_module import PrunerLitModule, param_groups

KINDS = {"lora": partial(LoraAdapter, 4, 8.0), "projector": ProjectorAdapter}


def lit(backbone, kind, loss=None, stages=None):
    torch.manual_seed(0)
    stages = stages or [Stage(LearnedPruner(), "encoder", 3), Stage(TextAttention(), "12/32", 1)]
    adaptation = KINDS[kind]()
    plan = Plan(stages, 0.2, adaptation=adaptation).prepare(backbone.family)
    for weight in adaptation.parameters():  # as if it had learned for a while
        weight.data += 0.02 * torch.randn_like(weight)
    adamw = partial(torch.optim.AdamW, lr=1e-2)
    module = make_plan_module(
        backbone, plan, GumbelStraightThrough(), loss or default_loss(), adamw, grad_tokens_per_image=8
    )
    module.log_dict = lambda *_, **__: None
    return module


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "loss", [default_loss(), DistillationLoss({"cross_entropy": CrossEntropy()})], ids=["kl", "cross_entropy"]
)
def test_gradient_reaches_pruner_and_adapter_and_nothing_else(backbone, batch, kind, loss):
    module, before = lit(backbone, kind, loss), copy.deepcopy(backbone.model.state_dict())
    module.training_step(batch, 0).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    assert {name.split(".")[0] for name in module.state_dict()} == {"plan"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_that_keeps_every_token_trains_with_the_adapter_on(backbone, batch, kind, monkeypatch):
    module = lit(backbone, kind, stages=[Stage(VisionSelector(), 0)])
    found, _ = module.student_forward(batch)
    monkeypatch.setattr(VisionSelector, "keeps_all", False)  # each question a row of its own, under the plan
    expected, _ = module.student_forward(batch)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    found.logits.square().sum().backward()
    assert all(weight.grad is not None for weight in module.plan.adaptation.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_is_the_unadapted_model(backbone, batch, kind, monkeypatch):
    expected, said = teacher_forward(backbone.model, batch).logits, []

    def listen(*given):
        said.append(teacher_forward(*given))
        return said[-1]

    monkeypatch.setattr("learnpruner.training.pruner_module.teacher_forward", listen)
    module = lit(backbone, kind)
    module.training_step(batch, 0)
    assert torch.equal(said[0].logits, expected)
    with module.plan.on(backbone.model):
        assert not torch.equal(teacher_forward(backbone.model, batch).logits, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_student_is_the_adapted_model(backbone, batch, kind):
    """At keep-all the student says what an adapted copy of the model says."""
    module = lit(backbone, kind)
    module.plan.prune_ratio = 1.0
    module.eval()
    with torch.no_grad():
        said, _ = module.student_forward(batch)
        with module.plan.adaptation.on(backbone.family), shared_vision(backbone.model):
            expected = teacher_forward(backbone.model, batch)
    torch.testing.assert_close(said.logits, expected.logits, atol=1e-5, rtol=1e-5)


def test_the_adapter_has_a_learning_rate_of_its_own(backbone):
    plan = lit(backbone, "lora").plan
    first, second = param_groups(plan, 0.5)
    assert "lr" not in first and second["lr"] == 0.5
    assert {id(p) for p in first["params"]} == {id(p) for p in plan.stages.parameters()}
    assert {id(p) for p in second["params"]} == {id(p) for p in plan.adaptation.parameters()}
    plan.adaptation.requires_grad_(False)
    assert all(isinstance(one, torch.nn.Parameter) for one in param_groups(plan, 0.5))


def test_a_method_without_weights_can_be_adapted_to(backbone, batch):
    module = lit(backbone, "lora", stages=[Stage(UniformPruner(), "encoder")])
    optimizer, found = module.optimizer(param_groups(module.plan, None)), []
    for _ in range(15):
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert sum(found[-3:]) < 0.8 * sum(found[:3])


def test_a_method_that_searches_is_refused(backbone):
    with pytest.raises(ValueError, match="train it with adapter=none"):
        lit(backbone, "lora", stages=[Stage(EvoComp(), 0)])


@pytest.mark.parametrize("kind", KINDS)
def test_the_unpruned_row_is_the_unadapted_model(backbone, kind):
    plan = lit(backbone, kind).plan.eval()
    alone = evaluate(backbone, {}, Questions(), 6, batch_size=3)
    found = evaluate(backbone, {"adapted": plan, "plain": Plan(list(plan.stages), 0.2)}, Questions(), 6, batch_size=3)
    assert found.outcomes[UNPRUNED].answers == alone.outcomes[UNPRUNED].answers
    assert found.outcomes["adapted"].adapts == plan.adapts and found.outcomes["plain"].adapts is None
    again = evaluate(backbone, {"plain": Plan(list(plan.stages), 0.2)}, Questions(), 6, batch_size=3)
    assert found.outcomes["plain"].answers == again.outcomes["plain"].answers


class Killed(BaseException):
    """Stands for a kill: nothing is saved on the way out."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumes_exactly_exports_its_adapter_and_goes_on_from_it(kind, run, monkeypatch, capsys):  # noqa: F811
    settings = [f"adapter={kind}", "adapter.lr=0.01", "callbacks.checkpoint.every_n_train_steps=1", "relaxation=gumbel"]
    settings += ["adapter.dropout=0.1"] if kind == "lora" else []
    whole = run(*settings, steps=3)
    assert plan_name(whole) in capsys.readouterr().out

    def stop(self, _, index):
        if index == 2:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("lightning.pytorch.callbacks.ModelCheckpoint.on_exception", lambda *_: None)
        patch.setattr(PrunerLitModule, "on_train_batch_start", stop)
        run(*settings, steps=3)
    broken = max(Path("logs").glob("*/runs/*"), key=lambda path: path.stat().st_mtime)
    last = broken / "checkpoints" / "last.ckpt"
    before = torch.load(last, weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in before} == {"plan"} and any("adaptation" in name for name in before)
    resumed = run(*settings, f"ckpt_path={last}", steps=3)
    assert losses(resumed) == losses(whole)[2:] and len(losses(resumed)) == 1
    assert files(whole) == files(resumed) and len(files(whole)) == {"lora": 2, "projector": 1}[kind]
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())

    frozen, trained = run(f"plan={whole}/export"), run(*settings, f"plan={whole}/export")
    assert files(frozen) == files(whole) != files(trained)
    assert any(not torch.equal(value, weights(frozen)[name]) for name, value in weights(whole).items())
    with pytest.raises(SystemExit):
        run(f"adapter={'projector' if kind == 'lora' else 'lora'}", f"plan={whole}/export")
    assert "carries an adapter of its own" in capsys.readouterr().err


def plan_name(folder):
    """How the tables call the run's plan."""
    assert json.loads((folder / "results.json").read_text())["adapts"]
    return f"learnpruner ({learnpruner.load(folder / 'export').adapts})"


def files(folder):
    """The adapter's files, weights as numbers."""
    paths = sorted((folder / "export" / "adapter").iterdir())
    return {
        path.name: {name: value.tolist() for name, value in load_file(path).items()}
        if path.suffix == ".safetensors"
        else path.read_text()
        for path in paths
    }
