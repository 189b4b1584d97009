"""Random tokens and tokens on a grid."""

import pytest
import torch

from learnpruner import Signal, View
from learnpruner.engine.vision_stages import hash_pixels
from learnpruner.pruners.random import RandomPruner
from learnpruner.pruners.uniform import UniformPruner, grid_mask, line_mask

KEY = Signal("image_key")


def drawn(pixels, seed=0, keep=10):
    view = View(torch.zeros(len(pixels), 36, 4), signals={KEY: hash_pixels(pixels)})
    return RandomPruner(seed)(view, torch.tensor([keep] * len(pixels))).mask(36)


def test_random_tokens_follow_from_the_image_and_the_seed():
    pixels = torch.randn(3, 3, 8, 8)
    found = drawn(pixels)
    assert torch.equal(found[[2, 0]], drawn(pixels[[2, 0]]))
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found, drawn(pixels, seed=1))
    torch.manual_seed(5)
    assert torch.equal(found, drawn(pixels))


def test_every_token_is_drawn_about_as_often():
    often = drawn(torch.randn(2000, 3, 4, 4)).float().mean(0)
    assert (often - 10 / 36).abs().max() < 0.05


def test_one_pixel_changes_the_key():
    pixels = torch.zeros(1, 3, 8, 8)
    changed = pixels.clone()
    changed[0, 2, 7, 7] = 1e-3
    assert hash_pixels(pixels) != hash_pixels(changed)
    assert hash_pixels(pixels + torch.eye(8)) != hash_pixels(pixels + torch.eye(8).flip(-1))


@pytest.mark.parametrize(("side", "step"), [(6, 1), (24, 7)])
def test_the_grid_has_the_right_count_for_every_budget(side, step):
    for count in range(1, side * side + 1, step):
        assert grid_mask(side, side, count).sum() == count


@pytest.mark.parametrize(("height", "width"), [(3, 20), (20, 3), (1, 9), (12, 24)])
def test_the_grid_need_not_be_square(height, width):
    for count in range(1, height * width + 1, 3):
        assert grid_mask(height, width, count).sum() == count


def test_a_square_count_gives_the_cell_centres():
    found = grid_mask(24, 24, 16).view(24, 24)
    assert found.nonzero().tolist() == [[r, c] for r in (3, 9, 15, 21) for c in (3, 9, 15, 21)]


@pytest.mark.parametrize("count", [18, 32, 55, 100])
def test_no_place_is_far_from_a_kept_token(count):
    kept = grid_mask(24, 24, count).view(24, 24).nonzero().float()
    places = torch.ones(24, 24).nonzero().float()
    cell = (576 / count) ** 0.5
    assert torch.cdist(places, kept).amin(1).max() < 1.1 * cell


def test_the_grid_needs_all_patches():
    with pytest.raises(ValueError, match="needs all patches"):
        UniformPruner()(View(torch.zeros(1, 30, 4), grid=(6, 6)), torch.tensor([5]))


def test_without_a_common_grid_tokens_stand_in_the_middle_of_equal_shares():
    assert line_mask(9, 3, 12).nonzero()[:, 0].tolist() == [1, 4, 7]
    assert line_mask(4, 9, 6).nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    valid = torch.arange(10) < torch.tensor([[10], [6]])
    chosen = UniformPruner()(View(torch.zeros(2, 10, 4), valid), torch.tensor([5, 2]))
    assert chosen.mask(10).int().tolist() == [[0, 1] * 5, [0, 1, 0, 0, 1, 0, 0, 0, 0, 0]]
    frames = UniformPruner()(View(torch.zeros(1, 8, 4), grid=(2, 2), frames=2), torch.tensor([4]))
    assert frames.index.tolist() == [[1, 3, 5, 7]]
