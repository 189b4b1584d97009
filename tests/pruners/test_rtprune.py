"""RTPrune equals a plain loop over words, tokens and log-domain Sinkhorn steps."""

import math

import pytest
import torch

from learnpruner import View
from learnpruner.core.signals import TEXT_EMBEDS, TEXT_MASK
from learnpruner.pruners.rtprune import RTPrune, dustbin_transport


def log_sinkhorn(cosines, dustbin=1.0, iterations=100):
    """The published form, in double precision: cosines is a list of rows; returns the plan without its dustbins."""
    m, n = len(cosines), len(cosines[0])
    z = [[*row, dustbin] for row in cosines] + [[dustbin] * (n + 1)]
    mu, nu = [0.0] * m + [math.log(n)], [0.0] * n + [math.log(m)]
    u, v = [0.0] * (m + 1), [0.0] * (n + 1)

    def lse(values):
        most = max(values)
        return most + math.log(sum(math.exp(x - most) for x in values))

    for _ in range(iterations):
        u = [mu[i] - lse([z[i][j] + v[j] for j in range(n + 1)]) for i in range(m + 1)]
        v = [nu[j] - lse([z[i][j] + u[i] for i in range(m + 1)]) for j in range(n + 1)]
    return [[math.exp(z[i][j] + u[i] + v[j]) for j in range(n)] for i in range(m)]


def looped(tokens, words, keep, alpha=0.1):
    """The rule for one image: kept indices, and what these tokens become."""
    score = [sum(float(x @ w) for w in words) / len(words) for x in tokens]
    kept = sorted(sorted(range(len(tokens)), key=lambda i: (-score[i], i))[:keep])
    lost = [i for i in range(len(tokens)) if i not in kept]
    if not lost:
        return kept, tokens[kept]
    cosines = [[float(tokens[i] @ tokens[j] / tokens[i].norm() / tokens[j].norm()) for j in lost] for i in kept]
    plan = log_sinkhorn(cosines)
    rows = zip(kept, plan, strict=True)
    return kept, torch.stack(
        [tokens[i] + alpha * sum(p * tokens[j] for p, j in zip(ps, lost, strict=True)) for i, ps in rows]
    )


def view(n=16, texts=(5, 2, 1), valid=None):
    g, t = torch.Generator().manual_seed(0), max(texts)
    mask = torch.arange(t) >= t - torch.tensor(texts)[:, None]
    seen = {TEXT_EMBEDS: torch.randn(len(texts), t, 8, generator=g), TEXT_MASK: mask}
    return View(torch.randn(len(texts), n, 8, generator=g), valid, None, seen)


@pytest.mark.parametrize("keep", [1, 2, 9, 15, 16])
def test_it_equals_a_plain_loop(keep):
    v = view()
    chosen = RTPrune()(v, torch.tensor([keep] * 3))
    for row in range(3):
        kept, tokens = looped(v.tokens[row], v[TEXT_EMBEDS][row][v[TEXT_MASK][row]], keep)
        assert chosen.index[row].tolist() == kept
        assert torch.allclose(chosen.apply(v.tokens)[row], tokens, atol=1e-5)


def test_rows_may_keep_different_counts_of_different_candidates():
    valid = torch.arange(16) >= torch.tensor([0, 4, 12])[:, None]
    v, keep = view(valid=valid), torch.tensor([9, 3, 7])
    chosen = RTPrune()(v, keep)
    assert chosen.valid.sum(1).tolist() == [9, 3, 4]
    for row in range(3):
        before, count = int((~valid[row]).sum()), min(int(keep[row]), int(valid[row].sum()))
        kept, tokens = looped(v.tokens[row][valid[row]], v[TEXT_EMBEDS][row][v[TEXT_MASK][row]], count)
        real = chosen.valid[row]
        assert chosen.index[row][real].tolist() == [i + before for i in kept]
        assert torch.allclose(chosen.apply(v.tokens)[row][real], tokens, atol=1e-5)


def test_no_token_sends_more_than_itself():
    plan = dustbin_transport(torch.rand(2, 6, 20) * 2 - 1, torch.ones(2, 6), torch.ones(2, 20), 1.0, 100)
    assert (plan.sum(1) < 1).all()
    assert (plan.sum(2) < 1).all()
    assert (plan > 0).all()


def test_keeping_everything_changes_nothing():
    v = view()
    assert torch.equal(RTPrune()(v, torch.tensor([16] * 3)).apply(v.tokens), v.tokens)
