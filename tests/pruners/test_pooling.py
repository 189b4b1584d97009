"""Average pooling against torch's own, and a plain loop for what the budget leaves over."""

import pytest
import torch

from learnpruner import View
from learnpruner.pruners.pooling import AveragePooling, pooled_grid, pooling_weights


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(24, 24, 5, 5), (6, 10, 2, 3), (24, 24, 12, 12), (7, 5, 7, 5)]
)
def test_the_weights_are_those_of_torch(height, width, rows, columns):
    image = torch.randn(1, 3, height, width)
    expected = torch.nn.functional.adaptive_avg_pool2d(image, (rows, columns)).flatten(2)[0]
    weights, first, _ = pooling_weights(height, width, rows, columns)
    assert torch.allclose(image.flatten(2)[0] @ weights.T, expected, atol=1e-6)
    assert torch.equal(first, weights.gt(0).int().argmax(1))


@pytest.mark.parametrize(("height", "width"), [(24, 24), (6, 10), (30, 4), (1, 9)])
def test_the_grid_is_the_largest_of_its_aspect_that_fits(height, width):
    for count in range(1, height * width + 1):
        rows, columns = pooled_grid(height, width, count)
        assert 1 <= rows * columns <= count
        if rows > 1 and columns > 1:
            assert abs(rows - columns * height / width) <= max(1, height / width)
            grown = min((rows + 1) / height, (columns + 1) / width) + 1e-9
            assert grown * height * grown * width > count
    assert pooled_grid(24, 24, 576) == (24, 24)
    assert pooled_grid(24, 24, 32) == (5, 5)


@pytest.mark.parametrize("keep", [1, 2, 7, 9, 30, 59])
def test_what_the_budget_leaves_over_goes_to_the_largest_residual(keep):
    tokens = torch.randn(2, 60, 4)
    rows, columns = pooled_grid(6, 10, keep)
    starts = [(r * 6 // rows, c * 10 // columns) for r in range(rows) for c in range(columns)]
    found = AveragePooling()(View(tokens, grid=(6, 10)), torch.tensor([keep, keep]))
    for image, (index, read) in enumerate(zip(found.index, found.apply(tokens), strict=True)):
        grid = tokens[image].view(6, 10, 4)
        means = {}
        for number, start in enumerate(starts):
            r, c = divmod(number, columns)
            means[start] = grid[start[0] : -(-(r + 1) * 6 // rows), start[1] : -(-(c + 1) * 10 // columns)].mean((0, 1))
        residual = {}
        for y in range(6):
            for x in range(10):
                if (y, x) not in means:
                    own = max(s for s in means if s[0] <= y and s[1] <= x)
                    residual[y, x] = float((grid[y, x] - means[own]).norm())
        extra = sorted(residual, key=residual.get, reverse=True)[: keep - len(means)]
        expected = {y * 10 + x: grid[y, x] for y, x in extra} | {y * 10 + x: mean for (y, x), mean in means.items()}
        assert index.tolist() == sorted(expected)
        assert torch.allclose(read, torch.stack([expected[i] for i in sorted(expected)]), atol=1e-5)


def test_it_needs_all_patches():
    with pytest.raises(ValueError, match="needs all patches"):
        AveragePooling()(View(torch.zeros(1, 30, 4), grid=(6, 6)), torch.tensor([5]))


@pytest.mark.parametrize("keep", [2, 3, 11, 40, 180])
def test_the_frames_of_a_video_are_pooled_one_by_one(keep):
    tokens, each = torch.randn(2, 180, 4), [keep // 3 + (frame < keep % 3) for frame in range(3)]
    found = AveragePooling()(View(tokens, grid=(6, 10), frames=3), torch.tensor([keep, keep]))
    assert found.index.shape == (2, keep)
    start = 0
    for frame, count in enumerate(each):
        part = tokens[:, 60 * frame : 60 * (frame + 1)]
        if count:
            alone = AveragePooling()(View(part, grid=(6, 10)), torch.tensor([count, count]))
            assert torch.equal(found.index[:, start : start + count], alone.index + 60 * frame)
            assert torch.allclose(found.apply(tokens)[:, start : start + count], alone.apply(part), atol=1e-6)
        start += count
