"""AOT against plain loops written from the rule."""

import math

import pytest
import torch
from torch.testing import assert_close

from learnpruner import Signal, View
from learnpruner.core.selection import Selection, top_k_selection
from learnpruner.pruners._aot_video import (
    absorb_sources,
    dynamic_tokens,
    merge_video,
    quantile_count,
    time_plan,
    video_budget,
)
from learnpruner.pruners._sinkhorn import sinkhorn
from learnpruner.pruners.aot import AOT, intra_weights, window_ranks

SHALLOW, DEEP = Signal("cls_attention", "6/27"), Signal("cls_attention")


def looks(images=1, side=6, frames=1, seed=0, width=8, valid=None):
    """A view with random features and attention: (images, frames x side^2, width)."""
    generator = torch.Generator().manual_seed(seed)
    n = frames * side * side
    tokens = torch.randn(images, n, width, generator=generator)
    signals = {s: torch.rand(images, 2, n, generator=generator) for s in (SHALLOW, DEEP)}
    return View(tokens, valid, (side, side), signals, frames=frames)


def loop_anchors(shallow, deep, side, edge, keep, share):
    """Best of each window in turns, then the best of all the others."""
    windows = {}
    for j in range(side * side):
        windows.setdefault((j // side // edge, j % side // edge), []).append(j)
    turns = []
    for members in windows.values():
        ranked = sorted(members, key=lambda j: (-shallow[j].item(), j))
        turns += [(turn, -shallow[j].item(), j) for turn, j in enumerate(ranked)]
    local = [j for _, _, j in sorted(turns)[: keep - math.floor(keep * share)]]
    rest = sorted((j for j in range(side * side) if j not in local), key=lambda j: (-deep[j].item(), j))
    return sorted(local + rest[: keep - len(local)])


def loop_plan(cost, eps, steps, stop, in_logs=False):
    """Sinkhorn with uniform marginals, entry by entry."""
    m, n = len(cost), len(cost[0])
    kernel = [[math.exp(-c / eps) for c in row] for row in cost]
    u, v = [1.0] * m, [1.0] * n
    for _ in range(steps):
        old = u
        u = [1 / m / sum(kernel[i][j] * v[j] for j in range(n)) for i in range(m)]
        v = [1 / n / sum(kernel[i][j] * u[i] for i in range(m)) for j in range(n)]
        moved = [eps * math.log(a / b) if in_logs else a - b for a, b in zip(u, old, strict=True)]
        if sum(map(abs, moved)) / m < stop:
            break
    return [[u[i] * kernel[i][j] * v[j] for j in range(n)] for i in range(m)]


def cos(x, y):
    return (x @ y / x.norm() / y.norm()).item()


def loop_merge(x, kept, side, eps=0.1, steps=100, stop=1e-2, spatial=0.5, hard=0.1):
    dropped = [i for i in range(len(x)) if i not in kept]

    def apart(i, j):
        return math.hypot(i // side - j // side, i % side - j % side) / (side - 1)

    cost = [[1 - cos(x[i], x[j]) + spatial * apart(i, j) for j in kept] for i in dropped]
    plan = loop_plan(cost, eps, steps, stop)
    nearest = [max(range(len(kept)), key=lambda k, i=i: cos(x[i], x[kept[k]])) for i in dropped]
    found = []
    for k, j in enumerate(kept):
        load = sum(row[k] for row in plan)
        soft = (x[j] + sum(row[k] * x[i] for row, i in zip(plan, dropped, strict=True))) / (1 + load)
        mine = [i for i, best in zip(dropped, nearest, strict=True) if best == k]
        plain = (x[j] + sum(x[i] for i in mine)) / (1 + len(mine))
        found.append((1 - hard) * soft + hard * plain)
    return torch.stack(found)


@pytest.mark.parametrize("keep", [1, 5, 9, 18, 35])
def test_one_image_equals_a_plain_loop(keep):
    view = looks(2)
    found = AOT()(view, torch.tensor([keep, keep]))
    merged = found.apply(view.tokens)
    for row in range(2):
        shallow, deep = (view[s][row].mean(0) for s in (SHALLOW, DEEP))
        kept = loop_anchors(shallow, deep, 6, 2, keep, 0.5)
        assert found.index[row].tolist() == kept
        assert_close(merged[row], loop_merge(view.tokens[row], kept, 6), atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [4, 6, 7, 16])
def test_windows_take_turns(count):
    scores = torch.rand(3, 36)
    found = top_k_selection(window_ranks(scores, (6, 6), 3), torch.tensor([count] * 3))
    for row, index in zip(scores, found.index, strict=True):
        assert index.tolist() == loop_anchors(row, row, 6, 3, count, 0.0)


def test_windows_that_do_not_divide_the_image_are_smaller_at_its_edge():
    found = top_k_selection(window_ranks(torch.rand(1, 35), (5, 7), 3), torch.tensor([6])).index[0]
    assert sorted((j // 7 // 3, j % 7 // 3) for j in found.tolist()) == [(r, c) for r in range(2) for c in range(3)]


@pytest.mark.parametrize("in_logs", [False, True])
def test_transport_equals_a_plain_loop(in_logs):
    cost = torch.rand(1, 7, 5)
    a, b = torch.full((1, 7), 1 / 7), torch.full((1, 5), 1 / 5)
    expected = torch.tensor(loop_plan(cost[0].tolist(), 0.1, 100, 1e-2, in_logs))
    assert_close(sinkhorn(cost, a, b, in_logs=in_logs)[0], expected, atol=1e-5, rtol=0)


def test_transport_that_converged_has_the_marginals_asked_for():
    a, b = torch.rand(2, 7), torch.rand(2, 5)
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    plan = sinkhorn(torch.rand(2, 7, 5), a, b, steps=1000, stop=1e-7)
    assert_close(plan.sum(2), a, atol=1e-5, rtol=0)
    assert_close(plan.sum(1), b, atol=1e-5, rtol=0)


def test_images_stop_alone_unless_the_batch_stops_together():
    tokens = torch.randn(2, 36, 8) * torch.tensor([1.0, 4.0])[:, None, None] + torch.tensor([2.0, 0.0])[:, None, None]
    kept = top_k_selection(torch.rand(2, 36), torch.tensor([9, 9]))
    batch = intra_weights(tokens, kept, (6, 6))
    for row in range(2):
        alone = intra_weights(tokens[[row]], Selection(kept.index[[row]]), (6, 6))
        assert_close(batch[[row]], alone, atol=1e-6, rtol=0)
    assert (intra_weights(tokens, kept, (6, 6), together=True) - batch).abs().max() > 1e-6


@pytest.mark.parametrize("frames", [1, 3])
def test_keeping_all_changes_nothing(frames):
    view = looks(2, frames=frames)
    n = view.tokens.shape[1]
    found = AOT(segment=2)(view, torch.tensor([n, n]))
    assert torch.equal(found.apply(view.tokens), view.tokens)


def loop_video(tokens, frames, stay, segment):
    """tokens (T, N, D), frames: (index, merged features) each -> places and features of what stays."""
    out = {}
    for start in range(0, len(frames), segment):
        index, anchors = frames[start]
        for f in range(start + 1, min(start + segment, len(frames))):
            later, x = frames[f]
            shrink = 1 - math.exp(-((f - start) ** 2) / (2 * 1.5**2))
            cost = [[(1 - cos(s, a)) * shrink for a in anchors] for s in x]
            plan = loop_plan(cost, 0.1, 100, 1e-2, in_logs=True)
            dynamic = sorted(range(len(x)), key=lambda i: max(plan[i]))[: stay[f]]
            out |= {(f, later[i].item()): x[i] for i in dynamic}
            merged, new = [i for i in range(len(x)) if i not in dynamic], []
            for k, anchor in enumerate(anchors):
                share = [plan[i][k] / sum(plan[i]) for i in merged]
                new.append((anchor + sum(w * x[i] for w, i in zip(share, merged, strict=True))) / (1 + sum(share)))
            anchors = torch.stack(new)
        out |= {(start, i.item()): a for i, a in zip(index, anchors, strict=True)}
    return out


@pytest.mark.parametrize(("keep", "frames"), [(9, 2), (30, 3), (24, 5)])
def test_a_video_equals_a_plain_loop(keep, frames):
    view, pruner = looks(1, frames=frames, seed=keep), AOT(segment=4)
    found = pruner(view, torch.tensor([keep]))
    tokens = view.tokens.view(frames, 36, 8)
    anchors, stay = video_budget(keep, [36] * frames, 4, 0.3)
    each = []
    for f in range(frames):
        shallow, deep = (view[s][0].mean(0)[f * 36 : (f + 1) * 36] for s in (SHALLOW, DEEP))
        kept = loop_anchors(shallow, deep, 6, 2, anchors[f], 0.5)
        each.append((torch.tensor(kept), loop_merge(tokens[f], kept, 6)))
    expected = loop_video(tokens, each, stay, 4)
    assert [(j // 36, j % 36) for j in found.index[0].tolist()] == sorted(expected)
    values = torch.stack([expected[place] for place in sorted(expected)])
    assert_close(found.apply(view.tokens)[0], values, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("frames", "segment"), [(1, 4), (2, 4), (3, 2), (5, 4), (9, 4), (4, 1), (2, 8)])
def test_a_video_keeps_exactly_its_budget(frames, segment):
    for total in range(1, frames * 12 + 1):
        anchors, stay = video_budget(total, [12] * frames, segment, 0.3)
        assert sum(stay) == total
        assert all(0 <= s <= a <= 12 for s, a in zip(stay, anchors, strict=True))


def test_frames_of_different_sizes_keep_exactly_their_budget():
    for total in range(1, 31):
        anchors, stay = video_budget(total, [12, 0, 6, 12], 2, 0.3)
        assert sum(stay) == total
        assert all(s <= a <= size for s, a, size in zip(stay, anchors, [12, 0, 6, 12], strict=True))


def test_first_frames_keep_their_anchors_and_later_ones_the_share_of_dynamic_tokens():
    anchors, stay = video_budget(200, [100] * 8, 4, 0.3)
    assert len(set(anchors)) == 1
    assert stay[0] == stay[4] == anchors[0]
    assert max(abs(stay[f] - 0.3 * anchors[0]) for f in (1, 2, 3, 5, 6, 7)) <= 1


def test_rows_of_a_batch_with_fewer_frames_equal_themselves_alone():
    long, short = looks(1, frames=3), looks(1, frames=2, seed=1)
    missing = 36
    tokens = torch.cat([long.tokens, torch.cat([short.tokens, torch.randn(1, missing, 8)], 1)])
    valid = torch.ones(2, 108, dtype=torch.bool)
    valid[1, 72:] = False
    signals = {s: torch.cat([long[s], torch.cat([short[s], torch.rand(1, 2, missing)], 2)]) for s in (SHALLOW, DEEP)}
    pruner = AOT()
    both = pruner(View(tokens, valid, (6, 6), signals, frames=3), torch.tensor([20, 12]))
    for row, (alone, keep) in enumerate([(long, 20), (short, 12)]):
        expected = pruner(alone, torch.tensor([keep]))
        real = torch.ones(20, dtype=torch.bool) if both.valid is None else both.valid[row]
        assert torch.equal(both.index[row][real], expected.index[0])
        assert_close(both.apply(tokens)[row][real], expected.apply(alone.tokens)[0], atol=1e-5, rtol=0)


def test_dynamic_tokens_are_those_below_the_quantile():
    plan = time_plan(torch.randn(1, 8, 16), torch.randn(1, 21, 16), 2)
    for share in (0.0, 0.1, 0.3, 1.0):
        largest = plan.amax(-1)
        expected = largest < largest.quantile(share)
        assert torch.equal(dynamic_tokens(plan, quantile_count(share, 21)), expected)


def test_weight_rows_are_averages():
    view = looks(1, frames=5)
    merge = AOT(segment=4)(view, torch.tensor([40])).merge
    assert_close(merge.sum(-1), torch.ones(1, 40))
    assert merge.min() >= 0


def test_sources_that_stay_give_nothing():
    anchors, sources = torch.randn(1, 4, 8), torch.randn(1, 6, 8)
    stay = torch.ones(1, 6, dtype=torch.bool)
    assert torch.equal(absorb_sources(anchors, sources, time_plan(anchors, sources, 1), stay), anchors)


def test_a_segment_does_not_reach_into_the_next():
    tokens = torch.randn(4, 36, 8)
    frames = [(torch.arange(36), torch.eye(36))] * 4
    _, rows = merge_video(tokens, frames, [36, 5, 36, 5], 2)
    assert rows[:41, 72:].abs().max() == 0 == rows[41:, :72].abs().max()


def test_it_needs_all_patches():
    with pytest.raises(ValueError, match="all patches"):
        AOT()(View(torch.zeros(1, 30, 4), grid=(6, 6)), torch.tensor([5]))
