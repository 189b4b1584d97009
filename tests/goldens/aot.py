"""AOT: anchors by window, the merge within a frame, and the merge across frames."""

from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from goldens import grid
from learnpruner.core.selection import Selection, top_k_selection
from learnpruner.pruners._aot_video import _SCALE, _SIGMA, absorb_sources, dynamic_tokens, quantile_count, time_plan
from learnpruner.pruners._sinkhorn import SINKHORN_EPS, SINKHORN_STEPS, SINKHORN_STOP
from learnpruner.pruners.aot import _HARD, _SPATIAL, intra_weights, window_ranks


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "indices" in tensors:
        windows(name, tensors, settings)
    elif "anchors" in tensors and ("plan" in tensors or "new_anchors" in tensors):
        across_frames(name, tensors, settings)
    elif "merged_kept" in tensors:
        within_a_frame(name, tensors, settings)
    else:
        return False
    return True


def windows(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    attention = tensors["attention"]
    rows, n = attention.shape
    wanted = tensors["indices"].view(rows, -1).sort(1).values
    ranks = window_ranks(attention, grid(name, settings, n), settings["window"])
    found = top_k_selection(ranks, torch.full((rows,), wanted.shape[1]))
    assert torch.equal(found.index, wanted), "window top-k: other tokens"


def within_a_frame(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    features, mask = tensors["features"], tensors["keep_mask"]
    kept = top_k_selection(mask.float(), mask.sum(1))
    weights = intra_weights(
        features, kept, grid(name, settings, features.shape[1]), settings.get("eps", SINKHORN_EPS),
        settings.get("iters", SINKHORN_STEPS), settings.get("stop", SINKHORN_STOP), settings.get("spatial_weight", _SPATIAL),
        settings.get("hard_mix", _HARD), together="per_image" not in name,
    )  # fmt: skip
    merged = Selection(kept.index, merge=weights).apply(features)
    assert_close(merged, tensors["merged_kept"], atol=1e-4, rtol=0, msg=lambda text: f"merged tokens: {text}")


def across_frames(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    anchors, sources = tensors["anchors"], tensors["sources"]
    plan = time_plan(
        anchors, sources, settings["dt"], settings.get("eps", SINKHORN_EPS), settings.get("sigma_t", _SIGMA),
        settings.get("scaling", _SCALE), settings.get("iters", SINKHORN_STEPS), settings.get("stop", SINKHORN_STOP),
        together="per_image" not in name,
    )  # fmt: skip
    if "plan" in tensors:
        assert_close(plan, tensors["plan"], atol=1e-4, rtol=0, msg=lambda text: f"plan across frames: {text}")
    stay = dynamic_tokens(plan, quantile_count(settings["keep_ratio"], sources.shape[1]))
    if "keep_mask" in tensors:
        assert torch.equal(stay, tensors["keep_mask"]), "dynamic tokens: others"
    if "new_anchors" in tensors:
        found = absorb_sources(anchors, sources, plan, stay)
        assert_close(found, tensors["new_anchors"], atol=1e-4, rtol=0, msg=lambda text: f"merged anchors: {text}")
