"""Packing against plain loops."""

import torch

from learnpruner.engine.packing import consecutive_positions, forward_fill, pack_rows, scatter_tokens


def masks(rows=7, length=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, length, generator=generator) < torch.linspace(0.05, 0.95, rows)[:, None]


def test_packing_keeps_order_and_aligns_to_the_right():
    keep = masks()
    length = int(keep.sum(1).max())
    index, present = pack_rows(keep, length)
    for row in range(keep.shape[0]):
        expected = [position for position in range(20) if keep[row, position]]
        assert index[row, length - len(expected) :].tolist() == expected
        assert present[row].tolist() == [False] * (length - len(expected)) + [True] * len(expected)
        assert len(set(index[row].tolist())) == length


def test_left_and_right_padding_pack_alike():
    words = torch.arange(1, 6)
    left, right = torch.nn.functional.pad(words, (3, 0))[None], torch.nn.functional.pad(words, (0, 3))[None]
    packed = [x.gather(1, pack_rows(x > 0, 5)[0]) for x in (left, right)]
    assert torch.equal(*packed)


def test_forward_fill_takes_the_last_token_alive():
    keep = masks()
    keep[:, 0] = True
    alive_of = masks(seed=1)
    index, present = pack_rows(keep, int(keep.sum(1).max()))
    alive = alive_of.gather(1, index) & present
    alive |= (index == 0) & present
    found = forward_fill(index, alive, 20)
    for row in range(keep.shape[0]):
        for position in range(20):
            at = max(j for j in range(index.shape[1]) if alive[row, j] and index[row, j] <= position)
            assert found[row, position] == at


def test_ranks_number_what_is_alive():
    assert consecutive_positions(torch.tensor([[False, True, False, True, True]])).tolist() == [[0, 0, 0, 1, 2]]


def test_putting_values_back_skips_fillers():
    x = torch.zeros(2, 5, 1)
    index = torch.tensor([[1, 3], [4, 4]])
    valid = torch.tensor([[True, True], [True, False]])
    values = torch.tensor([[[1.0], [2.0]], [[3.0], [9.0]]])
    assert scatter_tokens(x, index, values, valid)[..., 0].tolist() == [[0, 1, 0, 2, 0], [0, 0, 0, 0, 3]]
    assert scatter_tokens(x[:1], index[:1], values[:1], None)[..., 0].tolist() == [[0, 1, 0, 2, 0]]
    assert not x.any()
