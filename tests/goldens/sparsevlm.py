"""SparseVLM: raters, scores, kept tokens and clusters of v1.5, v2's heads, v1.0's rank rule, and the clustering alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from goldens import expected
from learnpruner.core.selection import top_k_selection
from learnpruner.pruners import sparsevlm
from learnpruner.pruners.sparsevlm import (
    add_clusters,
    dpc_knn,
    mean_of_attentive_heads,
    published_parts,
    rank_count,
    rater_scores,
    rater_words,
)

PRIORITY = 14  # heads that v2 takes
SCALE = 13.5  # of v1.0's rank


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "merged" in tensors:
        return clusters(tensors, settings)
    if expected(tensors, 1) is None:
        return False
    start, n = settings["image_start"], settings["image_len"]
    rows = tensors["attention"][:, :, start + n :, start : start + n]  # (1, H, T, N)
    everyone = torch.ones(rows.shape[0], rows.shape[2], dtype=torch.bool)
    if "scale" in settings or "rank" in name:
        return by_rank(rows, everyone, tensors, settings)
    embeds = tensors["input_embeds"]
    visual, text = embeds[:, start : start + n], embeds[:, start + n :]
    asked = rater_words(visual, torch.ones(visual.shape[:2], dtype=torch.bool), text, everyone)
    if "text_rater_indices" in tensors:
        assert torch.equal(asked[0].nonzero()[:, 0], tensors["text_rater_indices"]), "other raters"
    second = "v2" in name.split("_")
    heads = min(settings.get("priority_heads", PRIORITY if second else rows.shape[1]), rows.shape[1])
    scores = rater_scores(mean_of_attentive_heads(rows, asked, heads / rows.shape[1]), asked)
    if "visual_scores" in tensors:
        torch.testing.assert_close(scores, tensors["visual_scores"].view_as(scores), rtol=1e-5, atol=1e-6)
    chosen = top_k_selection(scores, torch.tensor([settings.get("budget", expected(tensors, 1).shape[1])])).index
    same(chosen, tensors)
    positions(chosen, second, tensors, settings)
    return output(scores, chosen.shape[1], not second, tensors, settings)


def same(index: Tensor, tensors: dict[str, Tensor]) -> None:
    wanted = expected(tensors, 1)
    assert torch.equal(index, wanted), f"kept {index.tolist()}, expected {wanted.tolist()}"


def by_rank(rows: Tensor, everyone: Tensor, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    block = mean_of_attentive_heads(rows, everyone)
    count = rank_count(block[0], settings.get("scale", SCALE), settings.get("bias", 0.0))
    same(top_k_selection(rater_scores(block, everyone), torch.tensor([count])).index, tensors)
    return True


def positions(kept: Tensor, original: bool, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """v2 keeps the positions of what stays; v1 counts on, clusters among them."""
    if "position_ids" not in tensors:
        return
    given, start, n = tensors["position_ids"], settings["image_start"], settings["image_len"]
    length = tensors["attention"].shape[-1]
    own = [*range(start), *(kept[0] + start).tolist(), *range(start + n, length)]
    wanted = own if original else list(range(given.shape[-1]))
    assert given.flatten().tolist() == wanted, f"positions {given.flatten().tolist()}, expected {wanted}"


def output(scores: Tensor, kept: int, recycles: bool, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    """The whole sequence: what stands before the image, kept tokens, clusters, the question."""
    if "output_hidden" not in tensors:
        return True
    start, n, given = settings["image_start"], settings["image_len"], tensors["layer_output"]
    tokens, parts = given[:, start : start + n], published_parts(kept, n, 0.3 if recycles else 0.0, 10)
    if "n_recycled" in settings:
        assert parts[1:] == (settings["n_recycled"], settings["n_merged_clusters"]), f"other counts: {parts}"
    chosen = noisy(tokens, scores, parts)
    found = torch.cat([given[:, :start], chosen.apply(tokens), given[:, start + n :]], 1)
    torch.testing.assert_close(found, tensors["output_hidden"], rtol=1e-5, atol=1e-5)
    return True


def noisy(tokens: Tensor, scores: Tensor, parts: sparsevlm._Parts) -> Any:
    """The selection with the reference's noise on cluster densities."""
    plain = sparsevlm.dpc_knn
    sparsevlm.dpc_knn = lambda x, count: plain(x, count, noise(len(x))[0])  # type: ignore[assignment]
    try:
        return add_clusters(tokens, scores, torch.ones_like(scores, dtype=torch.bool), [parts])
    finally:
        sparsevlm.dpc_knn = plain


def noise(count: int, rows: int = 1) -> Tensor:
    """(rows, count)"""
    return torch.rand(rows, count, generator=torch.Generator().manual_seed(0)) * 1e-6


def clusters(tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    tokens, merged = tensors["tokens"], tensors["merged"]
    count, shaken = settings.get("cluster_num", merged.shape[1]), noise(tokens.shape[1], len(tokens))
    for x, wanted, more in zip(tokens, merged, shaken, strict=True):
        member = F.one_hot(dpc_knn(x, count, more), count).float()
        torch.testing.assert_close((member / member.sum(0)).T @ x, wanted, rtol=1e-5, atol=1e-5)
    return True
