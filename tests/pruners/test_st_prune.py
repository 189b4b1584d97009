"""ST-Prune against a plain loop written from the rule, and what each of its parts is for."""

import math

import pytest
import torch
from tiny import TOKENS, ids, inputs, tiny_llava

from learnpruner import Plan, Stage, View
from learnpruner.pruners.st_prune import STPrune, soft_frame_weights

SIDE, N = 4, 16


def looks(frames=1, rows=1, seed=0):
    tokens = torch.randn(rows, frames * N, 8, generator=torch.Generator().manual_seed(seed))
    return View(tokens, None, (SIDE, SIDE), frames=frames)


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def cos(x, y):
    return (x @ y / x.norm() / y.norm()).item()


def loop_weights(x, frames, views, motion, recency):
    """Volatility and recency of each token, image by image."""
    last = (frames - 1) // views
    volatility = []
    for i in range(frames * N):
        f, p = divmod(i, N)
        beside = [g for g in (f - views, f + views) if 0 <= g < frames]
        changes = [1 - cos(x[i], x[g * N + p]) for g in beside]
        volatility.append(sum(changes) / len(changes) if changes else 0.0)
    most = max(*volatility, 1e-2)
    time = [(i // N // views) / last if last else 0.0 for i in range(frames * N)]
    return [(1 + motion * v / most) * (1 + recency * t) for v, t in zip(volatility, time, strict=True)]


def loop_duplicate(i, j, views, reach):
    """How near two tokens lie across the edge of adjacent cameras."""
    (f, p), (g, q) = divmod(i, N), divmod(j, N)
    if f // views != g // views:
        return 0.0
    a, b = f % views, g % views
    adjacent = abs(a - b) == 1 or (views > 2 and abs(a - b) == views - 1)
    if not adjacent:
        return 0.0
    right = b == a + 1 or (views > 2 and (a + 1) % views == b)
    left, other = (p, q) if right else (q, p)
    dx = (SIDE - left % SIDE + other % SIDE) / SIDE
    if views > 2:
        dx = min(dx, views - dx)
    dy = (p // SIDE - q // SIDE) / SIDE
    return math.exp(-(dx**2 + dy**2) / (2 * reach**2))


def loop(x, frames, keep, views=1, motion=0.5, recency=0.5, ring=0.8, reach=0.25):
    weight = loop_weights(x, frames, views, motion, recency)
    average = (x / x.norm(dim=1, keepdim=True)).mean(0)
    nearest, kept = [1 - cos(row, average) for row in x], []
    for step in range(keep):
        free = [i for i in range(len(x)) if i not in kept]
        pick = max(free, key=lambda i: weight[i] * nearest[i])
        kept.append(pick)
        for i in range(len(x)):
            alike = cos(x[i], x[pick])
            gone = ring * loop_duplicate(pick, i, views, reach) * max(alike, 0.0) if views > 1 else 0.0
            distance = (1 - alike) * (1 - gone)
            nearest[i] = distance if step == 0 else min(nearest[i], distance)
    return sorted(kept)


@pytest.mark.parametrize(
    ("frames", "views"), [(1, 1), (2, 1), (3, 1), (2, 2), (3, 3), (6, 3), (8, 4), (5, 3), (1, 6), (4, 6)]
)
@pytest.mark.parametrize("keep", [1, 7, 15])
def test_it_equals_a_plain_loop(frames, views, keep):
    view = looks(frames, rows=2, seed=frames)
    found = STPrune(views)(view, torch.tensor([keep, keep]))
    for row in range(2):
        assert found.index[row].tolist() == loop(view.tokens[row], frames, keep, views)


def test_a_single_image_is_chosen_by_diversity_alone():
    view = looks()
    plain = STPrune(1, motion=0, recency=0)(view, torch.tensor([6])).index
    assert torch.equal(STPrune(6, motion=3, recency=3)(view, torch.tensor([6])).index, plain)


def test_a_still_video_moves_nowhere_and_favours_its_end():
    image = unit(torch.randn(1, 1, N, 8))
    weights = soft_frame_weights(image.expand(1, 4, N, 8), torch.ones(1, 4, N, dtype=torch.bool), 1, 0.5, 0.5)
    assert torch.allclose(weights, (1 + 0.5 * torch.arange(4) / 3)[None, :, None].expand(1, 4, N), atol=1e-4)
    found = STPrune()(View(image.expand(1, 4, N, 8).flatten(1, 2), None, (SIDE, SIDE), frames=4), torch.tensor([N]))
    assert found.index[0].tolist() == list(range(3 * N, 4 * N))


def test_what_moves_is_kept():
    tokens = torch.randn(1, 1, N, 8).expand(1, 3, N, 8).clone()
    tokens[:, :, 5] = torch.randn(3, 8)  # the one patch that changes
    pruner = STPrune(motion=50.0, recency=0.0)
    found = pruner(View(tokens.flatten(1, 2), None, (SIDE, SIDE), frames=3), torch.tensor([3]))
    assert set(found.index[0].tolist()) == {5, 5 + N, 5 + 2 * N}


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_what_two_cameras_see_at_their_common_edge_goes_first(seed):
    """Two pairs are nearly alike: neighbours in camera 2, a little more so, and tokens on both sides of an edge."""
    torch.manual_seed(seed)

    def like(token, apart):
        return unit(token + apart * unit(torch.randn(64)))

    tokens = unit(torch.randn(1, 3, N, 64))
    tokens[0, 2, 6] = like(tokens[0, 2, 5], 0.6)
    tokens[0, 1, 0] = like(tokens[0, 0, 3], 0.7)
    view = View(tokens.flatten(1, 2), None, (SIDE, SIDE), frames=3)

    def dropped(ring):
        kept = STPrune(3, ring=ring)(view, torch.tensor([3 * N - 1])).mask(3 * N)[0]
        return (~kept).nonzero()[0].item()

    assert dropped(ring=0.0) in (2 * N + 5, 2 * N + 6)
    assert dropped(ring=1.0) in (3, N)


def test_rows_with_fewer_frames_equal_themselves_alone():
    long, short = looks(3), looks(2, seed=1)
    tokens = torch.cat([long.tokens, torch.cat([short.tokens, torch.randn(1, N, 8)], 1)])
    valid = torch.ones(2, 3 * N, dtype=torch.bool)
    valid[1, 2 * N :] = False
    found = STPrune(2)(View(tokens, valid, (SIDE, SIDE), frames=3), torch.tensor([9, 6]))
    assert found.index[0].tolist() == STPrune(2)(long, torch.tensor([9])).index[0].tolist()
    assert found.index[1][found.valid[1]].tolist() == STPrune(2)(short, torch.tensor([6])).index[0].tolist()


@pytest.mark.parametrize("views", [1, 2])
def test_the_end_of_a_shorter_video_is_its_own_last_moment(views):
    """Frames of the longer row weigh nothing on the shorter one, whose time ends where it ends."""
    long, short = (unit(torch.randn(1, views * moments, N, 8)) for moments in (4, 2))
    padded = torch.cat([short, unit(torch.randn(1, views * 2, N, 8))], 1)
    present = torch.ones(2, views * 4, dtype=torch.bool)
    present[1, views * 2 :] = False
    real = present[..., None].expand(-1, -1, N)
    found = soft_frame_weights(torch.cat([long, padded]), real, views, 0.5, 0.5)[1, : views * 2]
    alone = soft_frame_weights(short, real[1:, : views * 2], views, 0.5, 0.5)[0]
    torch.testing.assert_close(found, alone)
    still = soft_frame_weights(padded, real[1:], views, 0.0, 0.5)[0]
    assert still[views].tolist() == pytest.approx([1.5] * N)


@pytest.mark.parametrize("images", [2, 3])
def test_the_model_lets_the_images_of_a_prompt_compete(images):
    model, plan = tiny_llava(), Plan([Stage(STPrune(recency=4.0), "encoder")], 0.25).eval()
    batch = inputs([ids(1, seed=1), ids(images)])
    with torch.no_grad(), plan.on(model) as engine:
        model(**batch)
    tokens = engine.record.tokens[0].tolist()
    assert tokens[0] == round(0.25 * TOKENS)
    assert sum(tokens[1:]) == images * tokens[0]
    assert tokens[-1] > tokens[1]  # the end of a video weighs more


@pytest.mark.parametrize(("views", "ring"), [(0, 0.5), (1, 1.5)])
def test_settings_without_meaning_are_refused(views, ring):
    with pytest.raises(ValueError, match="at least one camera"):
        STPrune(views, ring=ring)


def test_a_shorter_video_beside_a_longer_one_is_weighted_as_alone():
    """Time ends with the video's own last moment, not with the padding's."""
    frames = torch.nn.functional.normalize(torch.randn(2, 6, 5, 8), dim=-1)
    present = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    real = present[..., None].expand(-1, -1, 5)
    found = soft_frame_weights(frames, real, views=2, motion=0.5, recency=0.7)
    alone = soft_frame_weights(frames[1:, :4], real[1:, :4], views=2, motion=0.5, recency=0.7)
    torch.testing.assert_close(found[1, :4], alone[0])
    assert alone[0, 2:].min() >= 1.7 > alone[0, :2].min() >= 1


def test_what_fills_up_a_smaller_image_does_not_move_the_larger_one():
    """Images of 9 and of 4 tokens in one prompt: what stands behind the 4 is nobody's motion."""
    tokens, real = unit(torch.randn(1, 2 * N, 8)), torch.ones(1, 2 * N, dtype=torch.bool)
    real[0, N + 4 :] = False
    other = tokens.clone()
    other[~real] = unit(torch.randn(N - 4, 8))
    for keep in range(1, N + 4):
        first, second = (STPrune()(View(x, real, frames=2), torch.tensor([keep])) for x in (tokens, other))
        assert first.index.tolist() == second.index.tolist()
    alike = soft_frame_weights(tokens.view(1, 2, N, 8), real.view(1, 2, N), 1, 0.5, 0.0)
    assert alike[0, 0, 4:].tolist() == [1.0] * (N - 4)  # a token without a partner has not moved
