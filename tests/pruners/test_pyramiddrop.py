"""PyramidDrop keeps what a plain loop over the unmodified model's eager attention keeps."""

import pytest
from hydra.utils import instantiate
from last_row import CUT, keeps_what_the_last_row_says
from omegaconf import OmegaConf

from learnpruner.pruners.pyramiddrop import PyramidDrop


@pytest.mark.parametrize("side", ["left", "right"])
def test_it_keeps_what_the_last_row_of_eager_attention_says(side):
    keeps_what_the_last_row_says(PyramidDrop(), layer=CUT, side=side)


def load(ratio):
    config = OmegaConf.load("conf/pruner/pyramiddrop.yaml")
    return instantiate(OmegaConf.merge({"prune_ratio": ratio}, {"pruner": config})).pruner


def test_the_published_schedule_averages_270_tokens():
    plan = load(270 / 576)
    assert plan.cuts(32) == (8, 16, 24)
    assert plan.counts(576, 32) == (288, 144, 72)
    assert plan.tokens(576, 32)["averaged"] == 270


def test_a_budget_below_the_full_layers_is_infeasible():
    with pytest.raises(ValueError, match="smallest feasible prune_ratio here is 0"):
        load(0.222).counts(576, 32)
