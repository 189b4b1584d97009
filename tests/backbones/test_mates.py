"""What a row decides is its own: the same beside pictures of other sizes, other counts of them, and longer questions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from families import FAMILIES, picture

from learnpruner import Plan, ScorePruner, Signal, Stage
from learnpruner.backbones import load_backbone
from learnpruner.engine import vision_signals as tower

sys.path.append(str(Path(__file__).parents[1] / "pruners"))
from test_every_plan import NAMES, make

RATIO = 0.5
MIXED = ["llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl"]  # families whose pictures keep their size
WORDS = "is there a red square on the left of any blue circle".split()
ROWS = (((0,), 3), ((1, 1), 11), ((), 6), ((2,), 8), ((3, 3, 3), 5))  # sizes of the pictures, and words, of each row


@pytest.fixture(scope="module", params=MIXED)
def case(request, tmp_path_factory):
    backbone = load_backbone(FAMILIES[request.param].save(tmp_path_factory.mktemp(request.param)))
    sizes, rows, number = FAMILIES[request.param].sizes, [], 0
    for shown, words in ROWS:
        rows.append(([picture(sizes[size], number + i) for i, size in enumerate(shown)], " ".join(WORDS[:words])))
        number += len(shown)
    return backbone, rows


def prompt(backbone, rows):
    texts = [" ".join([f"what {backbone.processor.image_token}"] * len(shown) + [words]) for shown, words in rows]
    shown = [images for images, _ in rows]
    visuals = {"images": shown} if any(shown) else {}
    return dict(backbone.processor(text=texts, padding=True, padding_side="left", return_tensors="pt", **visuals))


@torch.no_grad()
def run(backbone, plan, rows, mode="physical"):
    """Logits, what is alive behind each stage by the prompt's real positions, row by row, and the sentence of a refusal."""
    batch = prompt(backbone, rows)
    try:
        with plan.on(backbone.model, mode) as engine:
            logits = backbone.model(**batch).logits
    except ValueError as refused:
        return str(refused), None
    real = batch["attention_mask"].bool()
    shown = [] if engine.record is None else engine.record.alive
    return [logits[row][real[row]] for row in range(len(rows))], [
        [alive[row][real[row]] for alive in shown] for row in range(len(rows))
    ]


def decides_alone_as_in_company(backbone, plan, rows):
    found, alive = run(backbone, plan, rows)
    for number, row in enumerate(rows):
        if not row[0]:
            continue
        alone, own = run(backbone, plan, [row])
        if own is None:
            assert alone == found and alone.count("\n") == 0  # refused alike
            return False
        assert all(torch.equal(a, b) for a, b in zip(alive[number], own[0], strict=True))
        assert (found[number] - alone[0]).abs().max() < 1e-4
    assert all(
        torch.equal(a, b)
        for mine, other in zip(alive, run(backbone, plan, rows, "masked")[1], strict=True)
        for a, b in zip(mine, other, strict=True)
    )
    return True


def fitting(name, family):
    """A shipped plan, at positions and layers that the family can have."""
    plan = make(name, RATIO)
    if family.rotary_axes == 1 and family.earliest_cut == 1:
        return plan
    stages = [(stage.cut(family.layers), stage) for stage in plan.stages]
    moved = [
        Stage(stage.pruner, max(cut, family.earliest_cut) if cut else stage.at, stage.token_share)
        for cut, stage in stages
    ]
    return Plan(moved, RATIO).eval()


@pytest.mark.parametrize("name", NAMES)
def test_every_method_decides_alone_as_in_company(case, name):
    backbone, rows = case
    ran = decides_alone_as_in_company(backbone, fitting(name, backbone.family), rows)
    assert ran or unfit(name, backbone.family)


def unfit(name, family):
    """What the method reads that the family does not have: attention in the tower, or a picture's one plane."""
    pruners = [stage.pruner for stage in make(name, RATIO).stages]
    unseen = tower.CLS_SIGNALS if family.tower_is_watchable else tower.TOWER_ATTENTION_SIGNALS
    if not family.has_cls and any(signal.name in unseen for pruner in pruners for signal in pruner.needs):
        return True
    tiled = not family.features_are_placeholders and family.rotary_axes == 1
    return tiled and name in {"aot", "hiprune", "hiprune_pp", "pooling", "sppruner"}


class Careless(ScorePruner):
    """A method of an outside package that minds neither masks nor fillers: its scores follow all that a view holds."""

    def __init__(self, *names):
        super().__init__()
        self.needs = frozenset(map(Signal, names))

    def score(self, view):
        spread = torch.linspace(0, 1, view.tokens.shape[1]) * (view.grid or (3, 5))[1]
        mean = view.tokens.float().mean(1, keepdim=True)
        scores = (view.tokens.float() - mean).abs().sum(-1) * (1 + spread)
        for signal in sorted(self.needs, key=str):
            told = view[signal].float()
            scores = scores * (1.5 + torch.sin(told.flatten(1).mean(1, keepdim=True) * 100))
            scores = scores.roll(told.shape[signal.text_axis or 1], 1)
        return scores


class CarelessJoint(Careless):
    joint = True


PLACES = {
    "before": [Stage(Careless(), "encoder", 3), Stage(Careless("text_embeds", "text_ids"), 0, 2)],
    "across": [Stage(CarelessJoint(), "encoder", 3), Stage(CarelessJoint("token_keys", "text_queries"), 0, 2)],
    "inside": [Stage(Careless("text_states", "entered_embeds", "keys"), 2, 2), Stage(Careless("text_rows"), 4, 1)],
}


@pytest.mark.parametrize("places", PLACES)
def test_even_a_method_that_reads_fillers_decides_alone_as_in_company(case, places):
    backbone, rows = case
    rows = [*rows, ([rows[0][0][0], rows[3][0][0]], "red")]  # pictures of two sizes in a prompt, too
    assert decides_alone_as_in_company(backbone, Plan(PLACES[places], 0.7).eval(), rows)
