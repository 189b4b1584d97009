"""Learning-rate schedules: the shape that each name promises, and schedulers of other libraries in their place."""

from functools import partial

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from learnpruner.training.schedules import (
    attach_scheduler,
    constant_with_warmup,
    cosine_with_warmup,
    linear_with_warmup,
)
from learnpruner.utils.errors import UserError


def rates(make, total=200, lr=0.5):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = attach_scheduler(make, optimizer, total)["lr_scheduler"]["scheduler"]
    found = []
    for _ in range(total):
        found.append(scheduler.get_last_lr()[0] / lr)
        optimizer.step()
        scheduler.step()
    return found


def test_linear_rises_over_the_warm_up_and_falls_to_the_floor():
    found = rates(partial(linear_with_warmup, warmup=0.05, floor=0.02))
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10:] == pytest.approx([0.02 + 0.98 * (199 - step) / 189 for step in range(10, 200)])


def test_cosine_falls_along_half_a_cosine():
    found = rates(partial(cosine_with_warmup, warmup=0.1, floor=0.2))
    reference = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=179, eta_min=0.2)
    for step in range(20, 200):
        assert found[step] == pytest.approx(cosine.get_last_lr()[0])
        reference.step()
        cosine.step()


def test_constant_stays_at_its_height():
    assert rates(partial(constant_with_warmup, warmup=0.1))[19:] == [1.0] * 181
    assert rates(partial(constant_with_warmup, warmup=0.0))[0] == 1.0


def test_schedulers_of_torch_and_transformers_learn_the_length_of_the_run():
    assert rates(torch.optim.lr_scheduler.CosineAnnealingLR, total=100)[99] == pytest.approx(0, abs=1e-3)
    assert rates(partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.5), total=100)[99] < 1e-4
    theirs = rates(partial(get_cosine_schedule_with_warmup, num_warmup_steps=10), total=100)
    assert theirs[10] == 1.0 and theirs[99] < 1e-3
    assert rates(partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=10), total=11)[10] == pytest.approx(0)


@pytest.mark.parametrize("setting", [{"warmup": 2.0}, {"floor": -1.0}, {"warmup": float("nan")}])
def test_shares_are_shares(setting):
    with pytest.raises(UserError, match=rf"scheduler\.{next(iter(setting))} is .*between 0 and 1"):
        rates(partial(linear_with_warmup, **setting))


def test_a_schedule_that_waits_for_a_metric_is_refused():
    with pytest.raises(UserError, match="counts steps"):
        rates(torch.optim.lr_scheduler.ReduceLROnPlateau)
