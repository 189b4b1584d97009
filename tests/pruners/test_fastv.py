"""FastV keeps what a plain loop over the unmodified model's eager attention keeps."""

import pytest
from hydra.utils import instantiate
from last_row import CUT, keeps_what_the_last_row_says
from omegaconf import OmegaConf

from learnpruner.pruners.fastv import FastV


@pytest.mark.parametrize("side", ["left", "right"])
def test_it_keeps_what_the_last_row_of_eager_attention_says(side):
    keeps_what_the_last_row_says(FastV(), layer=CUT - 1, side=side)


def load(ratio):
    config = OmegaConf.load("conf/pruner/fastv.yaml")
    return instantiate(OmegaConf.merge({"prune_ratio": ratio}, {"pruner": config})).pruner


@pytest.mark.parametrize(("asked", "kept"), [(192, 166), (128, 98), (64, 30)])
def test_fastv_realises_the_average_that_was_asked_for(asked, kept):
    assert load(asked / 576).counts(576, 32) == (kept,)


def test_a_budget_below_the_full_layers_is_infeasible():
    with pytest.raises(ValueError, match="smallest feasible prune_ratio here is 0"):
        load(0.055).counts(576, 32)
