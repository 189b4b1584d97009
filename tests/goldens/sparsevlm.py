"""SparseVLM: raters, scores, kept tokens and clusters of v1.5, v2's heads, v1.0's rank rule, and the clustering alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.pruners import sparsevlm
from learnpruner.pruners.sparsevlm import cluster, head_mean, published, rank_count, rater_scores, raters, with_clusters
from learnpruner.selection import top


def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    if "merged" in tensors:
        return clusters(tensors, settings)
    if "keep_indices" not in tensors:
        return False
    start, n = settings["image_start"], settings["image_len"]
    rows = tensors["attention"][:, :, start + n :, start : start + n]  # (1, H, T, N)
    everyone = torch.ones(rows.shape[0], rows.shape[2], dtype=torch.bool)
    if "scale" in settings:
        return by_rank(rows, everyone, tensors, settings)
    embeds = tensors["input_embeds"]
    visual, text = embeds[:, start : start + n], embeds[:, start + n :]
    asked = raters(visual, torch.ones(visual.shape[:2], dtype=torch.bool), text, everyone)
    assert torch.equal(asked[0].nonzero()[:, 0], tensors["text_rater_indices"]), "other raters"
    scores = rater_scores(head_mean(rows, asked, settings.get("priority_heads", rows.shape[1]) / rows.shape[1]), asked)
    torch.testing.assert_close(scores, tensors["visual_scores"], rtol=1e-5, atol=1e-6)
    same(top(scores, torch.tensor([settings["budget"]])).index, tensors)
    return output(scores, tensors, settings)


def same(index: Tensor, tensors: dict[str, Tensor]) -> None:
    expected = tensors["keep_indices"]
    assert torch.equal(index.flatten(), expected.flatten()), f"kept {index.tolist()}, expected {expected.tolist()}"


def by_rank(rows: Tensor, everyone: Tensor, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    block = head_mean(rows, everyone)
    count = rank_count(block[0], settings["scale"], settings["bias"])
    same(top(rater_scores(block, everyone), torch.tensor([count])).index, tensors)
    return True


def output(scores: Tensor, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    """The whole sequence: what stands before the image, kept tokens, clusters, the question."""
    start, n, given = settings["image_start"], settings["image_len"], tensors["layer_output"]
    tokens, recycles = given[:, start : start + n], "n_recycled" in settings
    parts = published(settings["budget"], n, 0.3 if recycles else 0.0, 10)
    assert parts[1:] == (settings.get("n_recycled", 0), settings.get("n_merged_clusters", 0)), f"other counts: {parts}"
    chosen = noisy(tokens, scores, parts)
    found = torch.cat([given[:, :start], chosen.apply(tokens), given[:, start + n :]], 1)
    torch.testing.assert_close(found, tensors["output_hidden"], rtol=1e-5, atol=1e-5)
    return True


def noisy(tokens: Tensor, scores: Tensor, parts: sparsevlm.Parts) -> Any:
    """The selection with the reference's noise on cluster densities."""
    plain = sparsevlm.cluster
    sparsevlm.cluster = lambda x, count: plain(x, count, noise(len(x)))  # type: ignore[assignment]
    try:
        return with_clusters(tokens, scores, torch.ones_like(scores, dtype=torch.bool), [parts])
    finally:
        sparsevlm.cluster = plain


def noise(count: int) -> Tensor:
    return torch.rand(1, count, generator=torch.Generator().manual_seed(0))[0] * 1e-6


def clusters(tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool:
    tokens, count = tensors["tokens"][0], settings["cluster_num"]
    member = F.one_hot(cluster(tokens, count, noise(len(tokens))), count).float()
    found = (member / member.sum(0)).T @ tokens
    torch.testing.assert_close(found, tensors["merged"][0], rtol=1e-5, atol=1e-5)
    return True
