"""AOT: anchors by window, the merge within a frame, and the merge across frames."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from learnpruner.pruners.aot import absorb, dynamic_tokens, intra_weights, quantile_count, time_plan, window_ranks
from learnpruner.selection import Selection, top


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "attention" in tensors:
        windows(tensors, settings)
    elif "plan" in tensors:
        across_frames(tensors, settings)
    else:
        within_a_frame(tensors, settings, together="per_image" not in name)
    return True


def windows(tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    attention = tensors["attention"]
    side = math.isqrt(attention.shape[1])
    keep = torch.tensor([settings["keep"]] * attention.shape[0])
    found = top(window_ranks(attention, (side, side), settings["window"]), keep)
    assert torch.equal(found.index, tensors["indices"].sort(1).values), "window top-k: other tokens"


def within_a_frame(tensors: dict[str, Tensor], settings: dict[str, Any], together: bool) -> None:
    features, mask = tensors["features"], tensors["keep_mask"]
    side = math.isqrt(features.shape[1])
    kept = top(mask.float(), mask.sum(1))
    weights = intra_weights(
        features, kept, (side, side), settings["eps"], settings["iters"], settings["stop"],
        settings["spatial_weight"], settings["hard_mix"], together=together,
    )  # fmt: skip
    merged = Selection(kept.index, merge=weights).apply(features)
    assert_close(merged, tensors["merged_kept"], atol=1e-4, rtol=0, msg=lambda text: f"merged tokens: {text}")


def across_frames(tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    anchors, sources = tensors["anchors"], tensors["sources"]
    plan = time_plan(
        anchors, sources, settings["dt"], settings["eps"], settings["sigma_t"], settings["scaling"]
    )  # fmt: skip
    assert_close(plan, tensors["plan"], atol=1e-4, rtol=0, msg=lambda text: f"plan across frames: {text}")
    stay = dynamic_tokens(plan, quantile_count(settings["keep_ratio"], sources.shape[1]))
    assert torch.equal(stay, tensors["keep_mask"]), "dynamic tokens: others"
    found = absorb(anchors, sources, plan, stay)
    assert_close(found, tensors["new_anchors"], atol=1e-4, rtol=0, msg=lambda text: f"anchors after the merge: {text}")
