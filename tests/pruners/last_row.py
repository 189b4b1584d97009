"""What FastV and PyramidDrop share: the kept tokens are the best of the last row of eager attention."""

from __future__ import annotations

from typing import Any

import torch
from plans import text
from tiny import IMAGE, LAYERS, TOKENS, ids, inputs, tiny_llava
from torch import Tensor

from learnpruner import Plan, Pruner, Stage

CUT = 2
ROWS = [ids(1), ids(1, seed=1, after=9), ids(2, seed=2, before=5)]
IMAGES = [row.count(IMAGE) // TOKENS for row in ROWS]


def expected(attention: Tensor, batch: dict[str, Any], row: int, keep: int) -> list[int]:
    """The authors' rule, one prompt at a time: the last row's head mean over visual columns, best `keep`."""
    visual = (batch["input_ids"][row] == IMAGE).nonzero()[:, 0].tolist()
    last = batch["attention_mask"][row].nonzero().max()
    scores = {j: sum(head[last, j].item() for head in attention[row]) / len(attention[row]) for j in visual}
    return sorted(sorted(visual, key=lambda j: (-scores[j], j))[:keep])


@torch.no_grad()
def keeps_what_the_last_row_says(pruner: Pruner, layer: int, side: str) -> None:
    """Under a cut at CUT, by the attention of `layer` in the unmodified model; prompts padded on one side."""
    batch, plan = inputs(ROWS, side), Plan([Stage(pruner, CUT)], 0.5)
    model, eager = tiny_llava(), tiny_llava(attention="eager")
    with plan.on(model) as engine:
        model(**batch)
    attention = eager(**batch, output_attentions=True).attentions[layer]
    (count,) = plan.counts(TOKENS, LAYERS)
    for row, images in enumerate(IMAGES):
        kept = (engine.record.alive[0][row] & ~text(batch)[row] & batch["attention_mask"][row].bool()).nonzero()[:, 0]
        assert kept.tolist() == expected(attention, batch, row, count * images)
