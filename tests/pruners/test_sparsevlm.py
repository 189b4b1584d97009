"""SparseVLM equals a plain loop over words, tokens and clusters; clusters count in the budget and come last."""

import math

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny import IMAGE, TOKENS, ids, inputs, tiny_llava

from learnpruner import Plan, Stage, View
from learnpruner.core.budget import InfeasibleBudget, mean_tokens_per_layer, share_at
from learnpruner.core.signals import ENTERED_EMBEDS, ENTERED_MASK, TEXT_EMBEDS, TEXT_MASK, TEXT_ROWS
from learnpruner.pruners.sparsevlm import SparseVLM, budgeted_parts, dpc_knn, published_parts, rank_count


def looped_raters(visual, text):
    share = [0.0] * len(text)
    for v in visual:
        logits = [float(v @ t) for t in text]
        exps = [math.exp(x - max(logits)) for x in logits]
        share = [s + e / sum(exps) / len(visual) for s, e in zip(share, exps, strict=True)]
    found = [i for i, s in enumerate(share) if s > sum(share) / len(share)]
    return found or list(range(len(text)))


def looped_scores(rows, asked, heads):
    """rows (H, T, N) -> a score a token, over the heads whose raters see most."""
    total = [sum(rows[h, t].sum().item() for t in asked) for h in range(len(rows))]
    best = sorted(range(len(rows)), key=lambda h: (-total[h], h))[:heads]
    return [
        sum(rows[h, t, j].item() for h in best for t in asked) / len(best) / len(asked) for j in range(rows.shape[2])
    ]


def looped_clusters(tokens, count):
    """DPC-kNN, token by token: groups in order of their centres' score."""
    n, scale = len(tokens), math.sqrt(tokens.shape[1])
    d = [[float((a - b).double().norm()) / scale for b in tokens] for a in tokens]
    density = [math.exp(-sum(x * x for x in sorted(row)[:count]) / len(row[:count])) for row in d]
    most = max(max(row) for row in d)
    apart = [min([d[i][j] for j in range(n) if (-density[j], j) < (-density[i], i)], default=most) for i in range(n)]
    centres = sorted(range(n), key=lambda i: (-density[i] * apart[i], i))[:count]
    groups = [[] for _ in centres]
    for i in range(n):
        own = centres.index(i) if i in centres else min(range(count), key=lambda c: d[i][centres[c]])
        groups[own].append(i)
    return groups


def view(n=40, texts=(6, 3, 1), seed=0, valid=None):
    g = torch.Generator().manual_seed(seed)
    b, t = len(texts), max(texts)
    mask = torch.arange(t) >= t - torch.tensor(texts)[:, None]
    seen = {
        TEXT_ROWS: torch.rand(b, 4, t, n, generator=g),
        TEXT_EMBEDS: torch.randn(b, t, 8, generator=g),
        TEXT_MASK: mask,
        ENTERED_EMBEDS: torch.randn(b, 50, 8, generator=g),
        ENTERED_MASK: torch.arange(50) >= torch.tensor([0, 7, 20])[:b, None],
    }
    return View(torch.randn(b, n, 8, generator=g), valid, None, seen)


def expected(v, row, part, heads, parts):
    """The sequence of one prompt: kept tokens in order, then the means of clusters."""
    mask, tokens = v[TEXT_MASK][row], v.tokens[row][part]
    asked = looped_raters(v[ENTERED_EMBEDS][row][v[ENTERED_MASK][row]], v[TEXT_EMBEDS][row][mask])
    scores = looped_scores(v[TEXT_ROWS][row][:, mask][..., part], asked, heads)
    order = sorted(range(len(scores)), key=lambda j: (-scores[j], j))
    kept, recycled, clusters = parts
    again = tokens[order[kept : kept + recycled]]
    means = [again[group].mean(0) for group in looped_clusters(again, clusters)] if clusters else []
    return torch.stack([*tokens[sorted(order[:kept])], *means])


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("keep", [1, 2, 5, 12, 30, 39, 40])
def test_it_equals_a_plain_loop(keep, heads):
    v, pruner = view(), SparseVLM(head_share=heads / 4)
    chosen = pruner(v, torch.tensor([keep] * 3))
    assert chosen.index.shape == (3, keep)
    for row in range(3):
        wanted = expected(v, row, torch.ones(40, dtype=torch.bool), heads, budgeted_parts(keep, 40, 0.3, 10))
        assert torch.allclose(chosen.apply(v.tokens)[row], wanted, atol=1e-6)


def test_rows_may_keep_different_counts_of_different_candidates():
    valid = torch.arange(40) >= torch.tensor([0, 10, 35])[:, None]
    v, keep = view(valid=valid), torch.tensor([25, 7, 9])
    chosen = SparseVLM()(v, keep)
    assert chosen.valid.sum(1).tolist() == [25, 7, 5]
    for row in range(3):
        parts = budgeted_parts(int(keep[row]), int(valid[row].sum()), 0.3, 10)
        found = chosen.apply(v.tokens)[row][chosen.valid[row]]
        assert torch.allclose(found, expected(v, row, valid[row], 4, parts), atol=1e-6)
        assert valid[row][chosen.index[row][chosen.valid[row]]].all()


def test_without_recycling_nothing_is_merged():
    chosen = SparseVLM(recycle=0)(view(), torch.tensor([9] * 3))
    assert chosen.merge is None
    assert chosen.index.shape == (3, 9)


@pytest.mark.parametrize("n", [1, 2, 13, 64, 576])
def test_kept_tokens_and_clusters_fill_the_budget(n):
    for total in range(1, n + 1):
        kept, recycled, clusters = budgeted_parts(total, n, 0.3, 10)
        assert kept + clusters == total
        assert clusters <= total // 2
        assert clusters <= recycled <= n - kept
        if clusters < total // 2:
            assert (kept, recycled, clusters) == published_parts(kept, n, 0.3, 10) or not clusters


@pytest.mark.parametrize(("kept", "n", "clusters"), [(300, 576, 9), (200, 309, 4), (110, 204, 3)])
def test_the_published_list_for_192_tokens(kept, n, clusters):
    assert published_parts(kept, n, 0.3, 10)[2] == clusters
    assert budgeted_parts(kept + clusters, n, 0.3, 10)[0] in (kept, kept + 1)


LISTS = {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)}  # v1.5, kept tokens


def with_clusters_counted(kept, n=576):
    counts = []
    for count in kept:
        n = count + published_parts(count, n, 0.3, 10)[2]
        counts.append(n)
    return counts


def load(ratio):
    config = OmegaConf.merge({"prune_ratio": ratio}, {"pruner": OmegaConf.load("conf/pruner/sparsevlm.yaml")})
    return instantiate(config).pruner


@pytest.mark.parametrize("tokens", LISTS)
def test_the_config_has_the_published_lists_with_their_clusters(tokens):
    """At the cuts as the authors count them, where the layer that gives the scores has its tokens dropped already."""
    plan, wanted = load(tokens / 576), with_clusters_counted(LISTS[tokens])
    assert [share_at(stage.token_share, tokens / 576) for stage in plan.stages] == wanted
    assert mean_tokens_per_layer(wanted, (2, 6, 15), 576, 32) == pytest.approx(tokens, abs=1)


@pytest.mark.parametrize(
    ("asked", "tokens"), [(288, 192), (192, 192), (161, 192), (159, 128), (128, 128), (96, 96), (80, 64), (60, 64)]
)
def test_the_list_of_the_nearest_budget_is_scaled_to_the_budget(asked, tokens):
    plan, shape = load(asked / 576), with_clusters_counted(LISTS[tokens])
    assert plan.cuts(32) == (3, 7, 16)
    counts = plan.counts(576, 32)
    unit = counts[0] / shape[0]
    assert all(abs(count - unit * share) <= 1 for count, share in zip(counts, shape, strict=True))
    assert abs(mean_tokens_per_layer(counts, plan.cuts(32), 576, 32) - asked) <= 0.5


def test_a_budget_below_the_full_layers_is_refused_with_the_smallest_that_fits():
    for ratio in (0.055, 0.111):
        with pytest.raises(InfeasibleBudget) as caught:
            load(ratio).counts(576, 8)
        assert min(load(caught.value.smallest).counts(576, 8)) >= 1
        with pytest.raises(InfeasibleBudget):
            load(caught.value.smallest - 1 / 576).counts(576, 8)


def test_equal_tokens_are_clustered_without_noise():
    found = dpc_knn(torch.ones(9, 4), 3)
    assert found.tolist() == [0, 1, 2, 0, 0, 0, 0, 0, 0]


def test_clusters_equal_a_plain_loop():
    tokens = torch.randn(30, 6)
    found = dpc_knn(tokens, 5)
    assert [(found == c).nonzero()[:, 0].tolist() for c in range(5)] == looped_clusters(tokens, 5)


def test_the_rank_decides_in_v1_0():
    base = torch.randn(3, 20)
    block = torch.cat([base, base.sum(0, keepdim=True)])  # rank 3 of 4 rows
    assert rank_count(block, 2.5, 1.0) == 8
    assert rank_count(block, 100, 0) == 19
    assert rank_count(torch.eye(5), 2.0, 0) == 5


@torch.no_grad()
@pytest.mark.parametrize("ratio", [0.4, 0.6])
def test_by_rank_the_cache_holds_what_was_chosen(ratio):
    """Counts follow the rank, not the plan, and a batch still equals its rows."""
    model, batch = tiny_llava(), inputs([ids(1, after=4), ids(1, seed=1, after=9)])
    plan = Plan([Stage(SparseVLM(rank_scale=1.5), 2)], ratio, "compact")
    with plan.on(model) as engine:
        model.generate(**batch, max_new_tokens=2)
        engine.verify()
        counts = engine.record.tokens[0].tolist()
        eager = tiny_llava(attention="eager")(**batch, output_attentions=True).attentions[1].mean(1)
    for row, count in enumerate(counts):
        visual = (batch["input_ids"][row] == IMAGE).nonzero()[:, 0]
        text = model.get_input_embeddings()(batch["input_ids"][row, visual.max() + 1 :])
        features = model.get_image_features(batch["pixel_values"][row : row + 1]).pooler_output[0]
        asked = torch.tensor(looped_raters(features.view(TOKENS, -1), text)) + visual.max() + 1
        rank = torch.linalg.matrix_rank(eager[row][asked][:, visual])
        kept, _, clusters = published_parts(min(int(rank * 1.5), TOKENS - 1), TOKENS, 0.3, 10)
        assert count == kept + clusters


@torch.no_grad()
def test_on_renumbered_positions_the_sequence_is_kept_tokens_then_clusters():
    """Slots are only a way to say the order: the model runs on kept tokens, clusters, text."""
    model, batch, pruner = tiny_llava(), inputs([ids(1)]), SparseVLM()
    seen = []
    handle = model.model.language_model.layers[2].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
    )
    entering = tiny_llava()(**batch, output_hidden_states=True).hidden_states[2]
    with Plan([Stage(pruner, 2)], 0.6, "compact").on(model) as engine:
        model(**batch)
    handle.remove()
    (selection,) = engine.record.selections
    visual = batch["input_ids"][0] == IMAGE
    first = int(visual.nonzero().min())
    sequence = torch.cat([entering[:, :first], selection.apply(entering[:, visual]), entering[:, first + TOKENS :]], 1)
    assert torch.allclose(model.model.language_model.layers[2].input_layernorm(sequence), seen[0], atol=1e-4)
