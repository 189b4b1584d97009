"""PruMerge and PruMerge+ against plain loops."""

import numpy as np
import pytest
import torch
from tiny import TOKENS, ids, inputs, tiny_llava

from learnpruner import Plan, Stage, View
from learnpruner.pruners.prumerge import LAST_CLS_ROW, LAST_KEYS, PruMerge, outlier_count
from learnpruner.pruners.prumerge_plus import PruMergePlus, most_attended_that_fit, stride_steps

N = 60


def view(rows=2, n=N):
    attention = (3 * torch.randn(rows, n)).softmax(-1)
    return View(torch.randn(rows, n, 5), signals={LAST_CLS_ROW: attention, LAST_KEYS: torch.randn(rows, 4, n, 3)})


def merged(seen, row, kept):
    """What kept tokens become, from the rule, in the order of `kept`; the last is for those that are gone."""
    x, a = seen.tokens[row], seen[LAST_CLS_ROW][row]
    keys = seen[LAST_KEYS][row].transpose(0, 1).flatten(1)
    read = []
    for i in kept:
        others = [j for j in range(N) if j != i]
        alike = sorted(others, key=lambda j: -float(torch.cosine_similarity(keys[i], keys[j], dim=0)))
        read.append(x[i] + sum(a[j] * x[j] for j in alike[:32]))
    gone = [j for j in range(N) if j not in kept]
    return torch.stack([*read, sum(a[j] * x[j] for j in gone)] if gone else read), min(gone, default=None)


def ordered(seen, row):
    return sorted(range(N), key=lambda j: (-float(seen[LAST_CLS_ROW][row, j]), j))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("keep", [1, 2, 9, 40, 59])
def test_it_equals_a_plain_loop(keep, in_place):
    seen = view()
    found = PruMerge(in_place=in_place)(seen, torch.tensor([keep] * 2))
    read = found.apply(seen.tokens)
    for row in range(2):
        kept = ordered(seen, row)[: keep - 1]
        expected, slot = merged(seen, row, kept)
        assert found.index[row].tolist() == sorted([*kept, slot])
        order = sorted(range(keep), key=[*kept, slot].__getitem__) if in_place else range(keep)
        assert torch.allclose(read[row], expected[list(order)], atol=1e-5)


def strided(seen, row, attended):
    """The authors' kept tokens: by attention, then the stride where it meets none of these."""
    kept = ordered(seen, row)[:attended]
    step = max(1, int(int(1 / (attended / N)) / 3))
    return kept + [j for j in range(0, N, step) if j not in kept]


@pytest.mark.parametrize("keep", [1, 3, 5, 8, 17, 33, 47, 59])
def test_plus_fills_the_budget_with_attention_stride_and_the_next_by_attention(keep):
    seen = view()
    found = PruMergePlus()(seen, torch.tensor([keep] * 2))
    read = found.apply(seen.tokens)
    for row in range(2):
        fits = [t for t in range(1, keep) if t + len(range(0, N, max(1, int(int(1 / (t / N)) / 3)))) <= keep - 1]
        kept = strided(seen, row, max(fits)) if fits else []
        kept += [j for j in ordered(seen, row) if j not in kept][: keep - 1 - len(kept)]
        expected, slot = merged(seen, row, kept)
        assert found.index[row].tolist() == sorted([*kept, slot])
        assert torch.allclose(read[row], expected, atol=1e-5)


@pytest.mark.parametrize("plus", [False, True])
def test_adaptive_counts_follow_the_outliers_of_each_image(plus):
    seen = view(6)
    found = (PruMergePlus if plus else PruMerge)(adaptive=True)(seen, torch.tensor([N] * 6))
    counts = set()
    for row in range(6):
        low, high = np.quantile(seen[LAST_CLS_ROW][row].numpy(), [0.25, 0.75])
        attended = int((seen[LAST_CLS_ROW][row].numpy() > high + 1.5 * (high - low)).sum())
        kept = strided(seen, row, attended) if plus else ordered(seen, row)[:attended]
        assert len(kept) < N - 1
        expected, slot = merged(seen, row, kept)
        valid = found.valid[row]
        assert found.index[row][valid].tolist() == sorted([*kept, slot])
        assert torch.allclose(found.apply(seen.tokens)[row][valid], expected, atol=1e-5)
        counts.add(len(kept))
    assert len(counts) > 1


def crowded():
    """Two rows; in the first more than a sixth of the patches stands out."""
    seen = view()
    attention = torch.rand(2, N) / 100
    attention[0, 3:14] += 0.5
    attention[1, 7] += 0.5
    return View(seen.tokens, signals=seen.signals | {LAST_CLS_ROW: attention})


def test_where_many_stand_out_nothing_is_dropped_and_neighbours_are_gathered_all_the_same():
    """As the authors', but for the zero that they append."""
    seen = crowded()
    found = PruMergePlus(adaptive=True)(seen, torch.tensor([N, N]))
    kept = strided(seen, 0, 11)
    expected, slot = merged(seen, 0, kept)
    assert slot is None
    assert found.valid.sum(1).tolist() == [N, 5]  # one by attention, three on the stride of 20, the sum
    assert torch.allclose(found.apply(seen.tokens)[0], expected, atol=1e-5)


def test_plus_counts_outliers_over_the_batch_if_asked():
    seen = crowded()
    found = PruMergePlus(adaptive=True, batchwise=True)(seen, torch.tensor([N, N]))
    attended = int(outlier_count(seen[LAST_CLS_ROW], batchwise=True)[0])
    assert 1 < attended < 11
    for row in range(2):
        kept = strided(seen, row, attended)
        expected, _ = merged(seen, row, kept)
        valid = torch.ones(found.index.shape[1], dtype=torch.bool) if found.valid is None else found.valid[row]
        assert torch.allclose(found.apply(seen.tokens)[row][valid], expected, atol=1e-5)


@pytest.mark.parametrize("method", [PruMerge, PruMergePlus])
def test_the_budget_is_the_most_that_adaptive_counts_come_to(method):
    seen = view(4)
    found = method(adaptive=True)(seen, torch.tensor([3, 4, 3, N]))
    counts = [3, 4, 3, N] if found.valid is None else found.valid.sum(1).tolist()
    assert counts[:3] == [3, 4, 3]


@pytest.mark.parametrize("method", [PruMerge, PruMergePlus])
def test_padding_changes_nothing(method):
    seen, real = view(2), torch.arange(N + 7) < torch.tensor([[N], [N]])
    pad = {LAST_CLS_ROW: torch.rand(2, 7), LAST_KEYS: torch.randn(2, 4, 7, 3)}
    signals = {s: torch.cat([value, pad[s]], s.axis) for s, value in seen.signals.items()}
    padded = View(torch.cat([seen.tokens, torch.randn(2, 7, 5)], 1), real, None, signals)
    for adaptive in (False, True):
        one, other = (method(adaptive)(shown, torch.tensor([25, 25])) for shown in (seen, padded))
        for row in range(2):
            assert torch.equal(one.mask(N)[row], other.mask(N + 7)[row, :N])


def test_keep_all_is_the_identity():
    for method in (PruMerge, PruMergePlus):
        seen = view()
        assert torch.equal(method()(seen, torch.tensor([N, N])).apply(seen.tokens), seen.tokens)


def test_an_even_attention_has_one_outlier_so_that_something_is_kept():
    assert outlier_count(torch.full((2, 30), 1 / 30)).tolist() == [1, 1]


def test_what_fits_leaves_room_for_its_stride():
    for room in range(4, 575, 13):
        attended = most_attended_that_fit(room, 576)
        assert attended + len(range(0, 576, stride_steps(attended / 576))) <= room
    assert most_attended_that_fit(31, 576) == 7
    assert most_attended_that_fit(3, 576) == 0


@torch.no_grad()
@pytest.mark.parametrize("method", [PruMerge, PruMergePlus])
def test_adaptive_counts_are_what_the_cache_holds(method):
    model, batch = tiny_llava(), inputs([ids(1), ids(2, seed=1), ids(1, seed=2)])
    with Plan([Stage(method(adaptive=True), "encoder")], 1.0, "compact").on(model) as engine:
        model.generate(**batch, max_new_tokens=3)
        engine.verify()
    kept = engine.record.tokens[0]
    assert len(set(kept.tolist())) > 1
    assert (kept < TOKENS).all()


def test_batchwise_counts_are_the_average_of_what_stands_out_in_the_batch():
    """As the authors: one image full of outliers lends its count to the others; each alone has none to lend."""
    attention = torch.rand(3, 40, generator=torch.Generator().manual_seed(0)) / 100
    attention[1, :9] = 0.5
    flat = sorted(attention.flatten().tolist())
    at = [(len(flat) - 1) * share for share in (0.25, 0.75)]
    low, high = (flat[int(p)] + (p - int(p)) * (flat[int(p) + 1] - flat[int(p)]) for p in at)
    found = sum(value > high + 1.5 * (high - low) for value in flat)
    assert outlier_count(attention, batchwise=True).tolist() == [int(found / 120 * 40)] * 3 == [3, 3, 3]
    assert outlier_count(attention).tolist() == [1, 9, 1]
