"""Steps that are not finite, against a plain loop that leaves them out; clipping, against the rule."""

import copy
import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from learnpruner.training.checkpointing import SaveOnExceptionCheckpoint
from learnpruner.training.finite_steps import FiniteSteps
from learnpruner.training.trainer import fit, make_trainer

GOOD, LOSS, INFINITE, GRADIENT = "good", "loss", "infinite", "gradient"


class Toy(L.LightningModule):
    """Three weights; what a batch is says what becomes of its loss."""

    def __init__(self, optimizer):
        super().__init__()
        self.weight, self.make = nn.Parameter(torch.tensor([1.0, -2.0, 3.0])), optimizer

    def training_step(self, batch, batch_idx):
        return loss_of(self.weight, batch)

    def configure_optimizers(self):
        return self.make([self.weight])


def loss_of(weight, batch):
    loss = (weight * batch.x).square().sum()
    if batch.kind in (LOSS, INFINITE):
        return loss * float("nan" if batch.kind == LOSS else "inf")
    if batch.kind == GRADIENT:
        return loss + (weight - weight.detach()).sum().sqrt()  # the square root's slope at 0
    return loss


def batches(kinds):
    return [
        SimpleNamespace(kind=k, x=torch.tensor([0.5, 1.0, 2.0]) + i, ids=[f"sample-{i}"]) for i, k in enumerate(kinds)
    ]


def trained(folder, kinds, optimizer, ckpt_path=None, clip=0.0, accumulate=1, every=1):
    """The module and its trainer; the module of a run that stopped is as it was left."""
    steps = len(kinds) // accumulate
    settings = {"accelerator": "cpu", "precision": "32-true", "max_steps": steps}
    settings |= {"gradient_clip_val": clip, "accumulate_grad_batches": accumulate}
    saved = SaveOnExceptionCheckpoint(every, folder / "checkpoints", steps)
    trainer = make_trainer(settings, [saved], [], folder)
    module = Toy(optimizer)
    loader = DataLoader(batches(kinds), batch_size=None)
    data = L.LightningDataModule.from_datasets(batches(kinds))
    data.train_dataloader = lambda: loader
    fit(trainer, module, data, ckpt_path)
    return module, trainer


def plain(kinds, optimizer):
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    made = optimizer([weight])
    for batch in batches(kinds):
        if batch.kind == GOOD:
            made.zero_grad()
            loss_of(weight, batch).backward()
            made.step()
    return weight


ADAMW = lambda weights: torch.optim.AdamW(weights, lr=0.1, weight_decay=0.1)  # noqa: E731
SGD = lambda weights: torch.optim.SGD(weights, lr=1e-3, momentum=0.9, weight_decay=0.1)  # noqa: E731


@pytest.mark.parametrize("optimizer", [ADAMW, SGD], ids=["adamw", "sgd"])
@pytest.mark.parametrize("bad", [LOSS, INFINITE, GRADIENT])
def test_a_step_that_is_not_finite_moves_neither_weights_nor_moments(bad, optimizer, tmp_path, caplog):
    kinds = [GOOD, GOOD, bad, bad, GOOD, bad, GOOD]
    module, trainer = trained(tmp_path, kinds, optimizer)
    assert torch.equal(module.weight, plain(kinds, optimizer))
    assert float(trainer.callback_metrics["skipped"]) == 3
    assert "sample-2" in caplog.text and "sample-5" in caplog.text and "sample-4" not in caplog.text


def test_clipping_does_not_hide_what_is_not_finite(tmp_path):
    module, _ = trained(tmp_path, [GOOD, GRADIENT, GOOD], SGD, clip=1.0)
    assert module.weight.isfinite().all()


def test_one_bad_batch_spoils_the_step_that_it_is_gathered_in_and_no_other(tmp_path):
    module, trainer = trained(tmp_path, [GOOD, LOSS, GOOD, GOOD], SGD, accumulate=2)
    assert float(trainer.callback_metrics["skipped"]) == 1
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    made = SGD([weight])
    sum(loss_of(weight, batch) / 2 for batch in batches([GOOD] * 4)[2:]).backward()
    made.step()
    torch.testing.assert_close(module.weight, weight)


def test_the_third_in_a_row_stops_the_run_names_its_batch_and_keeps_the_last_good_weights(tmp_path):
    kinds = [GOOD, LOSS, LOSS, GOOD, LOSS, GRADIENT, LOSS, GOOD]
    with pytest.raises(ValueError, match=r"not finite at step 6, for 3 steps in a row, at batch 6 \(sample-6\)"):
        trained(tmp_path, kinds, SGD, every=100)
    held = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert torch.equal(held["state_dict"]["weight"], plain(kinds[:4], SGD))


def test_a_run_that_goes_on_counts_on(tmp_path):
    """Batches of a plain loader come again from the first: two more of them are bad."""
    trained(tmp_path, [GOOD, LOSS, LOSS], SGD)
    with pytest.raises(ValueError, match="for 3 steps in a row"):
        trained(tmp_path, [LOSS] * 5, SGD, tmp_path / "checkpoints/last.ckpt")
    held = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert held["callbacks"]["FiniteSteps"] == {"skipped": 3, "in_a_row": 3}


def test_float16_lowers_its_factor_before_a_run_is_given_up(tmp_path):
    guard, scaler = FiniteSteps(), SimpleNamespace(factor=4.0)
    scaler.get_scale = lambda: scaler.factor
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler), global_step=7)
    for _ in range(10):
        guard._left_out(trainer, True, ["batch 7"])
    assert (guard.skipped, guard.in_a_row) == (10, 0)
    scaler.factor = 1.0
    with pytest.raises(ValueError, match="gradient is not finite"):
        for _ in range(3):
            guard._left_out(trainer, True, ["batch 7"])
    with pytest.raises(ValueError, match="loss is not finite"):
        guard._left_out(trainer, False, ["batch 7"])


@pytest.mark.parametrize("clip", [0.0, 0.25])
def test_the_gradient_is_clipped_to_its_norm(clip, tmp_path):
    """One step of plain SGD moves the weights by the gradient itself."""
    first = torch.tensor([1.0, -2.0, 3.0])
    module, _ = trained(tmp_path, [GOOD], lambda weights: torch.optim.SGD(weights, lr=1.0), clip=clip)
    weight = first.clone().requires_grad_()
    loss_of(weight, batches([GOOD])[0]).backward()
    moved = first - module.weight.detach()
    expected = weight.grad * (clip / weight.grad.norm() if clip else 1)
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-5)
    assert math.isclose(moved.norm(), clip or weight.grad.norm(), rel_tol=1e-4)


def test_a_finite_run_is_the_one_without_the_guard(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(FiniteSteps, "on_before_optimizer_step", lambda *_: None)
        bare, _ = trained(tmp_path, [GOOD] * 4, ADAMW, clip=1.0)
    module, _ = trained(tmp_path, [GOOD] * 4, ADAMW, clip=1.0)
    assert torch.equal(module.weight, bare.weight)
    assert not torch.equal(module.weight, copy.deepcopy(Toy(ADAMW)).weight)
