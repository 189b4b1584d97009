"""FastV keeps what a plain loop over the unmodified model's eager attention keeps."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from plans import text
from tiny import IMAGE, LAYERS, TOKENS, ids, inputs, tiny_llava

from learnpruner import Plan, Stage
from learnpruner.pruners.fastv import FastV

ROWS = [ids(1), ids(1, seed=1, after=9), ids(2, seed=2, before=5)]


def expected(attention, batch, row, keep):
    """The authors' rule, one prompt at a time: the last row's head mean over visual columns, best `keep`."""
    visual = (batch["input_ids"][row] == IMAGE).nonzero()[:, 0].tolist()
    last = batch["attention_mask"][row].nonzero().max()
    scores = {j: sum(head[last, j].item() for head in attention[row]) / len(attention[row]) for j in visual}
    return sorted(sorted(visual, key=lambda j: (-scores[j], j))[:keep])


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_it_keeps_what_the_last_row_of_eager_attention_says(side):
    batch, plan = inputs(ROWS, side), Plan([Stage(FastV(), 2)], 0.5)
    model, eager = tiny_llava(), tiny_llava(attention="eager")
    with plan.on(model) as engine:
        model(**batch)
    attention = eager(**batch, output_attentions=True).attentions[1]
    (count,) = plan.counts(TOKENS, LAYERS)
    for row, images in enumerate([1, 1, 2]):
        kept = (engine.record.alive[0][row] & ~text(batch)[row] & batch["attention_mask"][row].bool()).nonzero()[:, 0]
        assert kept.tolist() == expected(attention, batch, row, count * images)


def load(ratio):
    config = OmegaConf.load("conf/pruner/fastv.yaml")
    return instantiate(OmegaConf.merge({"prune_ratio": ratio}, {"pruner": config})).pruner


@pytest.mark.parametrize(("asked", "kept"), [(192, 166), (128, 98), (64, 30)])
def test_fastv_realises_the_average_that_was_asked_for(asked, kept):
    assert load(asked / 576).counts(576, 32) == (kept,)


def test_a_budget_below_the_full_layers_is_infeasible():
    with pytest.raises(ValueError, match="smallest feasible prune_ratio here is 0"):
        load(0.055).counts(576, 32)
