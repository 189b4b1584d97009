"""Where the visual tokens of images lie among features and placeholders, against plain loops."""

import torch

from learnpruner.engine.image_layout import ImageLayout


def test_tokens_go_back_to_the_features_that_they_came_from():
    """Windows of a tower may lie in another order than the tokens of the prompt, also where there is nothing else."""
    order = torch.randperm(12).view(2, 6)
    layout = ImageLayout([torch.ones(6, dtype=torch.bool)] * 2, list(order), (4, 3))
    tokens, onto = torch.randn(2, 6, 5), torch.randn(4, 3, 5)
    found = layout.back(tokens, onto).flatten(0, 1)
    for image in range(2):
        for place in range(6):
            assert torch.equal(found[order[image, place]], tokens[image, place])


def test_structural_placeholders_and_images_of_other_sizes():
    shows = [torch.tensor([True, True, False, True, False]), torch.tensor([True, False])]
    layout = ImageLayout(shows, [torch.tensor([4, 0, 5]), torch.tensor([7])], (4, 2))
    assert layout.sizes == [3, 1] and layout.shape == (2, 3) and layout.first.tolist() == [2, 3]
    assert layout.valid.tolist() == [[True] * 3, [True, False, False]]
    values = torch.arange(6.0).view(2, 3)
    assert layout.place(values, -1.0).tolist() == [0, 1, -1, 2, -1, 3, -1]
    shown = torch.randn(7, 5)
    read = layout.read(shown)
    assert torch.equal(read[0], shown[[0, 1, 3]]) and torch.equal(read[1, 0], shown[5])
    written = layout.write(shown, values[..., None].expand(2, 3, 5))
    assert torch.equal(written[[2, 4, 6]], shown[[2, 4, 6]]) and written[[0, 1, 3, 5], 0].tolist() == [0, 1, 2, 3]
    onto = torch.zeros(4, 2, 1)
    assert layout.back(values[..., None] + 1, onto).flatten().tolist() == [2, 0, 0, 0, 1, 3, 0, 4]
