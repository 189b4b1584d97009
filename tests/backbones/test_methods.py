"""Methods that act inside the LLM, or read the question, on every family of models."""

import pytest
import torch
from families import FAMILIES, picture
from plans import Seen

from learnpruner import Plan, Stage
from learnpruner.backbones import load_backbone
from learnpruner.pruners.dart import DART
from learnpruner.pruners.fastv import FastV
from learnpruner.pruners.hawk import HAWK
from learnpruner.pruners.pyramiddrop import PyramidDrop
from learnpruner.pruners.rtprune import RTPrune
from learnpruner.pruners.sparsevlm import SparseVLM

WORDS = ["is there a red square", "how many objects are on the left of any blue circle", "is the circle red"]
METHODS = {
    "fastv": (FastV(), 3),
    "dart": (DART(), 3),
    "sparsevlm": (SparseVLM(), 3),
    "pyramiddrop": (PyramidDrop(), 3),
    "hawk": (HAWK(), 0),
    "rtprune": (RTPrune(), 0),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request, tmp_path_factory):
    family = FAMILIES[request.param]
    backbone = load_backbone(family.save(tmp_path_factory.mktemp(request.param)))
    return backbone, family


def prompts(case, numbers):
    """A picture and a question a row, padded on the left."""
    backbone, family = case
    texts = [f"what {backbone.processor.image_token} {WORDS[number]}" for number in numbers]
    pictures = [[picture(family.sizes[number % len(family.sizes)], number)] for number in numbers]
    made = backbone.processor(text=texts, images=pictures, padding=True, padding_side="left", return_tensors="pt")
    return dict(made)


@torch.no_grad()
def test_what_the_next_layer_would_attend_to_is_what_it_attends_to(case):
    """With everything kept, a layer asked before it runs agrees with the layer watched while it runs."""
    backbone, _ = case
    before, after = Seen("next_attention"), Seen("last_attention")
    with Plan([Stage(before, 3), Stage(after, 4)], 1.0).on(backbone.model):
        backbone.model(**prompts(case, [0, 1, 2]))
    assert torch.allclose(before.seen["next_attention"], after.seen["last_attention"], atol=1e-5)


@torch.no_grad()
def test_padding_turns_no_key(case):
    backbone, _ = case
    together, alone = Seen("text_keys", "text_mask"), Seen("text_keys", "text_mask")
    with Plan([Stage(together, 3)], 1.0).on(backbone.model):
        backbone.model(**prompts(case, [0, 1, 2]))
    for number in range(3):
        with Plan([Stage(alone, 3)], 1.0).on(backbone.model):
            backbone.model(**prompts(case, [number]))
        keys = together.seen["text_keys"][number][together.seen["text_mask"][number]]
        assert torch.allclose(keys, alone.seen["text_keys"][0], atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_generates_what_its_rows_do_alone(case, name):
    backbone, _ = case
    pruner, at = METHODS[name]
    batch = prompts(case, [0, 1, 2])
    options = {"max_new_tokens": 3, "do_sample": False}
    with Plan([Stage(pruner, at)], 0.7).eval().on(backbone.model) as engine:
        found = backbone.model.generate(**batch, **options)[:, -3:]
        engine.verify()
        kept = engine.record.tokens[0].tolist()
        for number in range(3):
            alone = prompts(case, [number])
            assert torch.equal(backbone.model.generate(**alone, **options)[0, -3:], found[number])
            engine.verify()
            assert engine.record.tokens[0].tolist() == [kept[number]]
