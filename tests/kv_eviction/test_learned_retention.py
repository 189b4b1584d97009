"""The gates' maths against plain loops."""

import math

import pytest
import torch

from learnpruner.kv_eviction.policies.trimkv import (
    _OPEN_BIAS,
    MakeEachTokenCount,
    TrimKV,
    capacity_excess,
    log_decay_matrix,
    retention_attention,
)
from learnpruner.kv_eviction.policy import CacheSlots, top_count_mask, top_pooled_masks

B, H, G, L, D = 2, 4, 2, 9, 5


def tensors():
    query, key, value = torch.randn(B, H, L, D), torch.randn(B, G, L, D), torch.randn(B, G, L, D)
    return query, key, value, -torch.rand(B, G, L)


@pytest.mark.parametrize("form", ["logits", "weights"])
def test_attention_fades_as_the_formula_says(form):
    query, key, value, log_beta = tensors()
    out, weights = retention_attention(query, key, value, log_decay_matrix(log_beta), 0.5, form)
    for b in range(B):
        for h in range(H):
            g = h // (H // G)
            for i in range(L):
                beta = [math.exp(log_beta[b, g, j]) ** (i - j) for j in range(i + 1)]
                logits = [0.5 * float(query[b, h, i] @ key[b, g, j]) for j in range(i + 1)]
                if form == "logits":
                    parts = [math.exp(f * logit) for f, logit in zip(beta, logits, strict=True)]
                else:
                    parts = [f * math.exp(logit) for f, logit in zip(beta, logits, strict=True)]
                expected = [part / sum(parts) for part in parts]
                assert weights[b, h, i, : i + 1].tolist() == pytest.approx(expected, abs=1e-6)
                assert not weights[b, h, i, i + 1 :].any()
                mixed = sum(w * value[b, g, j] for j, w in enumerate(expected))
                torch.testing.assert_close(out[b, i, h], mixed, atol=1e-5, rtol=1e-5)


def test_the_last_rows_alone_are_the_last_rows_of_all():
    query, key, value, log_beta = tensors()
    out, weights = retention_attention(query, key, value, log_decay_matrix(log_beta), 1.0)
    some, their = retention_attention(query[:, :, -3:], key, value, log_decay_matrix(log_beta, 3), 1.0)
    torch.testing.assert_close(some, out[:, -3:])
    torch.testing.assert_close(their, weights[:, :, -3:])


def test_what_one_head_holds_too_much_another_may_hold_less_where_they_share():
    """A head that keeps all 9 tokens beside one that keeps its last only: 5 on average, within a shared capacity of 5."""
    log_beta = torch.stack([torch.zeros(1, L), torch.full((1, L), -50.0)], 1)
    later = [log_decay_matrix(log_beta, 1)]
    assert float(capacity_excess(later, 5, "cache")) == pytest.approx(0, abs=1e-6)
    assert float(capacity_excess(later, 5, "head")) == pytest.approx((9 - 5) / 2 / (9 - 5))
    layers = [log_decay_matrix(torch.zeros(1, 2, L), 1), log_decay_matrix(torch.full((1, 2, L), -50.0), 1)]
    assert float(capacity_excess(layers, 5, "cache")) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("pool", ["head", "cache"])
def test_overfull_is_the_excess_over_the_capacity(pool):
    layers, capacity, rows = [-torch.rand(B, G, L) * 0.2 for _ in range(3)], 3, 5
    excess = whole = 0.0
    for b in range(B):
        for i in range(L - rows, L):
            held = [
                sum(math.exp(log_beta[b, g, j]) ** (i - j) for j in range(i + 1))
                for log_beta in layers
                for g in range(G)
            ]
            held = [sum(held) / len(held)] if pool == "cache" else held
            excess += sum(max(0, one - capacity) for one in held) / len(held)
            whole += max(0, i + 1 - capacity)
    found = capacity_excess([log_decay_matrix(log_beta, rows) for log_beta in layers], capacity, pool)
    assert float(found) == pytest.approx(excess / whole, rel=1e-5)


def test_overfull_is_one_where_everything_stays_and_zero_within_the_capacity():
    everything = [log_decay_matrix(torch.zeros(B, G, L))]
    assert float(capacity_excess(everything, 3)) == pytest.approx(1)
    assert float(capacity_excess(everything, L)) == 0


@pytest.mark.parametrize("make", [lambda: TrimKV(12), lambda: MakeEachTokenCount(12)])
def test_a_new_gate_hardly_forgets(make):
    policy = make()
    policy.prepare(6, 3, G)
    marks = policy.mark(1, torch.randn(B, L, 6))
    assert marks.shape == (B, G, L)
    assert (marks < 0).all()
    assert (marks > -5 * math.exp(-_OPEN_BIAS)).all()


def test_a_shared_projection_is_one_for_all_layers_and_heads():
    own, shared = TrimKV(12), MakeEachTokenCount(12)
    for policy in (own, shared):
        policy.prepare(6, 3, G)
    assert [tuple(out.weight.shape) for out in own.out] == [(G, 12)] * 3
    assert [tuple(out.weight.shape) for out in shared.out] == [(1, 12 // G)]


def slots(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    marks = -torch.rand(B, G, count, generator=generator)
    position = torch.arange(count).expand_as(marks)
    return CacheSlots(position, count + 1 - position, torch.rand(B, G, count, generator=generator) > 0.2, marks)


@pytest.mark.parametrize("budget", [1, 5, 12, 40])
def test_each_head_keeps_its_best_slots(budget):
    (kept,) = TrimKV(1)([slots()], budget)
    layer = slots()
    for b in range(B):
        for g in range(G):
            valid = [s for s in range(12) if layer.valid[b, g, s]]
            ranked = sorted(valid, key=lambda s: (-float(layer.mark[b, g, s] * layer.age[b, g, s]), s))
            assert kept[b, g].nonzero().flatten().tolist() == sorted(ranked[:budget])


@pytest.mark.parametrize("budget", [1, 5, 12])
def test_a_pooled_budget_keeps_the_best_of_all_layers_and_heads(budget):
    layers = [slots(12, 1), slots(7, 2), slots(12, 3)]
    kept = TrimKV(1, pool="cache")(layers, budget)
    for b in range(B):
        places = [(i, g, s) for i, one in enumerate(layers) for g in range(G) for s in range(one.valid.shape[-1])]
        valid = [(i, g, s) for i, g, s in places if layers[i].valid[b, g, s]]
        ranked = sorted(valid, key=lambda p: (-float((layers[p[0]].mark * layers[p[0]].age)[b, p[1], p[2]]), p))
        found = [(i, g, s) for i, g, s in places if kept[i][b, g, s]]
        assert found == sorted(ranked[: budget * len(layers) * G])


def test_ties_go_to_the_slot_written_first():
    assert top_count_mask(torch.tensor([[0.0, 1, 0, 1, 0]]), 3).tolist() == [[True, True, False, True, False]]
    first, second = top_pooled_masks([torch.zeros(1, 1, 2), torch.zeros(1, 1, 3)], 2)
    assert first.tolist() == [[[True, True]]]
    assert second.tolist() == [[[True, True, False]]]


def test_marks_are_full_precision_whatever_the_model_computes_in():
    policy = TrimKV(12)
    policy.prepare(6, 1, G)
    hidden = torch.randn(B, L, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        marks = policy.mark(0, hidden)
    assert marks.dtype == torch.float32
    assert torch.equal(marks, policy.mark(0, hidden.float()))
