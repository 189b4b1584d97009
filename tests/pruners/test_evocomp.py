"""EvoComp: the scorer over image and question, the search for labels, the losses."""

import math

import pytest
import torch

from learnpruner import View
from learnpruner.core.signals import TEXT_EMBEDS, TEXT_MASK
from learnpruner.pruners.evocomp import (
    EvoComp,
    breed_children,
    decode_keys,
    fittest_members,
    ghm_c_loss,
    kept_dropped_similarity,
    nearest_words,
)


def view(rows=2, tokens=12, text=5, valid=None, seed=0):
    torch.manual_seed(seed)
    signals = {TEXT_EMBEDS: torch.randn(rows, text, 16), TEXT_MASK: torch.ones(rows, text, dtype=torch.bool)}
    return View(torch.randn(rows, tokens, 16), valid, None, signals)


def decoded(keys, groups, keep, valid):
    """One set, from the rule: the best token of each group, best first; then each group's second best, and so on."""
    real = [i for i in range(len(keys)) if valid[i]]
    ranks = {}
    for i in real:
        ranks[i] = sum(groups[j] == groups[i] and keys[j] > keys[i] for j in real)
    return set(sorted(real, key=lambda i: (ranks[i], -keys[i]))[:keep])


@pytest.mark.parametrize("keep", [1, 3, 4, 7, 12])
@pytest.mark.parametrize("count", [1, 4, 12])
def test_decoding_equals_the_plain_loop(keep, count):
    keys, groups = torch.rand(2, 3, 12), torch.randint(count, (2, 12))
    valid = torch.arange(12) < torch.tensor([[12], [9]])
    found = decode_keys(keys, groups, torch.tensor([keep, keep]), valid)
    for b in range(2):
        for p in range(3):
            expected = decoded(keys[b, p].tolist(), groups[b].tolist(), keep, valid[b].tolist())
            assert set(found[b, p].nonzero()[:, 0].tolist()) == expected


def test_a_set_takes_one_token_a_group_while_groups_last():
    groups = torch.arange(40)[None] // 4
    found = decode_keys(torch.rand(1, 6, 40), groups, torch.tensor([10]))
    assert (found.view(1, 6, 10, 4).sum(-1) == 1).all()


def test_tokens_are_grouped_by_the_word_of_largest_cosine():
    tokens, words = torch.randn(2, 7, 4), torch.randn(5, 4)
    found = nearest_words(tokens, words)
    for b in range(2):
        for i in range(7):
            cosines = [float(torch.cosine_similarity(tokens[b, i], word, dim=0)) for word in words]
            assert int(found[b, i]) == max(range(5), key=lambda v: cosines[v])


def test_the_fittest_cost_least():
    costs = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
    kept, best = fittest_members(2, costs, torch.arange(6).view(2, 3))
    assert kept.tolist() == [[1, 2], [5, 3]] and best.tolist() == [[1.0, 2.0], [0.0, 1.0]]


def test_children_take_each_key_from_one_of_two_parents_or_anew():
    parents = torch.arange(3.0)[None, :, None].expand(1, 3, 500).clone()
    copies = breed_children(parents, 20, 0.0, 0.0)
    assert all(len(set(child.tolist())) == 1 for child in copies[0])
    crossed = breed_children(parents, 200, 1.0, 0.0)
    assert all(len(set(child.tolist())) <= 2 for child in crossed[0])
    mixed = [child for child in crossed[0] if len(set(child.tolist())) == 2]
    shares = torch.stack([(child == child.max()).float().mean() for child in mixed])
    assert len(mixed) > 50 and ((shares > 0.4) & (shares < 0.6)).all()
    mutated = breed_children(parents, 20, 0.9, 0.3)
    assert 0.25 < float((mutated % 1 != 0).float().mean()) < 0.35


def test_the_search_finds_the_tokens_that_matter_and_evaluates_as_often_as_it_says():
    wanted, asked = torch.tensor([[1, 5, 9], [0, 2, 4]]), []

    def cost(sets):
        asked.append(sets.shape[1])
        assert (sets.sum(-1) == 6).all()
        return -sets.float().gather(2, wanted[:, None].expand(-1, sets.shape[1], -1)).sum(-1)

    pruner = EvoComp(16, population=48, parents=12, generations=10)
    found = pruner._search(torch.arange(40).expand(2, 40), torch.tensor([6, 6]), cost, None)
    assert found.shape == (2, 12, 40) and sum(asked) == 48 + 10 * 36
    assert found.float().mean(1).gather(1, wanted).min() > 0.9


def test_ghm_weights_every_filled_bin_alike():
    logits, labels = torch.randn(3, 40) * 3, (torch.rand(3, 40) < 0.2).float()
    bins: dict[int, list[float]] = {}
    for x, y in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        bins.setdefault(min(9, int(abs(p - y) * 10)), []).append(-math.log(p if y else 1 - p))
    expected = sum(sum(losses) / len(losses) for losses in bins.values()) / len(bins)
    assert float(ghm_c_loss(logits, labels)) == pytest.approx(expected, rel=1e-4)
    valid = torch.arange(40).expand(3, 40) < 30
    assert torch.equal(ghm_c_loss(logits, labels, valid), ghm_c_loss(logits[:, :30], labels[:, :30]))


def test_likeness_is_the_cosine_of_what_is_kept_and_what_is_dropped():
    tokens, p = torch.randn(2, 5, 3), torch.rand(2, 5)
    cosines = []
    for b in range(2):
        unit = [t / t.norm() for t in tokens[b]]
        kept = sum(w * u for w, u in zip(p[b], unit, strict=True))
        dropped = sum((1 - w) * u for w, u in zip(p[b], unit, strict=True))
        cosines.append(float(kept @ dropped / kept.norm() / dropped.norm()))
    assert float(kept_dropped_similarity(tokens, p)) == pytest.approx(sum(cosines) / 2, abs=1e-5)


@torch.no_grad()
def test_the_score_reads_the_question_and_its_order():
    pruner, seen = EvoComp(16).eval(), view(rows=1)
    score = pruner.score(seen)
    for text in (torch.randn(1, 5, 16), seen[TEXT_EMBEDS].flip(1)):
        other = View(seen.tokens, None, None, {TEXT_EMBEDS: text, TEXT_MASK: seen[TEXT_MASK]})
        assert (pruner.score(other) - score).abs().max() > 1e-4


@torch.no_grad()
def test_fillers_and_absent_tokens_change_nothing():
    pruner, seen = EvoComp(16).eval(), view()
    score = pruner.score(seen)
    text = torch.cat([torch.randn(2, 3, 16), seen[TEXT_EMBEDS]], 1)  # fillers come first
    real = torch.arange(8).expand(2, 8) >= 3
    tokens = torch.cat([seen.tokens, torch.randn(2, 4, 16)], 1)
    padded = View(tokens, torch.arange(16).expand(2, 16) < 12, None, {TEXT_EMBEDS: text, TEXT_MASK: real})
    torch.testing.assert_close(pruner.score(padded)[:, :12], score)


def test_a_lesson_teaches_the_scorer_what_the_search_found():
    pruner, seen, words = EvoComp(16, population=16, parents=4, generations=2), view(rows=4), torch.randn(30, 16)
    optimizer = torch.optim.AdamW(pruner.parameters(), lr=3e-3)
    better = seen.tokens[..., 0] > 0  # which tokens the frozen model would like to read

    def cost(sets):
        return -(sets & better[:, None]).sum(-1).float()

    for _ in range(60):
        losses = pruner.search_loss(seen, torch.tensor([4] * 4), cost, words)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert set(losses) == {"ghm", "apart"}
    kept = pruner.eval()(seen, torch.tensor([4] * 4)).mask(12)
    assert (kept & better).sum(1).tolist() == better.sum(1).clamp(max=4).tolist()


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="fewer parents than population"):
        EvoComp(parents=48)
    with pytest.raises(ValueError, match="tokens and words of one width, not 32 and 16"):
        EvoComp(32).score(View(torch.randn(1, 4, 32), None, None, view(rows=1).signals))
