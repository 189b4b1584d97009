"""FasterVLM against a plain loop, and against vectors of its authors' code where they are at hand."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from learnpruner import View
from learnpruner.core.signals import CLS_ATTENTION
from learnpruner.pruners.fastervlm import FasterVLM

GOLDEN = next((p for p in (Path(__file__).parents[i] / "shared" / "golden" for i in (2, 3)) if p.is_dir()), None)


def keep(attention, count):
    pruner, images = FasterVLM(), attention.shape[0]
    view = View(torch.zeros(images, attention.shape[2], 1), signals={CLS_ATTENTION: attention})
    return pruner.score(view), pruner(view, torch.tensor([count] * images)).index


@pytest.mark.parametrize("count", [1, 8, 64])
def test_it_equals_a_plain_loop(count):
    attention = torch.rand(3, 4, 64).softmax(-1)
    _, found = keep(attention, count)
    for image in range(3):
        scores = [sum(attention[image, head, j].item() for head in range(4)) / 4 for j in range(64)]
        expected = sorted(sorted(range(64), key=lambda j: -scores[j])[:count])
        assert found[image].tolist() == expected


@pytest.mark.skipif(GOLDEN is None, reason="golden vectors are not at hand")
def test_it_equals_the_authors_code():
    with safe_open(GOLDEN / "fastervlm.safetensors", "pt") as file:
        metadata = file.metadata()
        attention = file.get_tensor("small/cls_attention")
        for case in ("small_keep8", "small_keep16"):
            scores, index = keep(attention, json.loads(metadata[case])["keep"])
            assert torch.equal(index, file.get_tensor(f"{case}/keep_indices").sort(1).values)
            assert torch.allclose(scores, file.get_tensor(f"{case}/scores"))
