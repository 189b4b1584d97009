"""Selections apply themselves."""

import torch

from learnpruner import Selection
from learnpruner.core.selection import from_order, gather_tokens, merge_rows, top_k_selection


def test_take_gathers_rows_and_spreads_a_batch_of_one():
    x = torch.arange(12.0).view(2, 3, 2)
    index = torch.tensor([[2, 0], [1, 1]])
    assert torch.equal(gather_tokens(x, index), torch.stack([x[0, [2, 0]], x[1, [1, 1]]]))
    assert torch.equal(gather_tokens(x[:1], index), torch.stack([x[0, [2, 0]], x[0, [1, 1]]]))


def test_top_keeps_the_best_in_reading_order():
    found = top_k_selection(torch.tensor([[0.1, 0.9, 0.5, 0.7]]), torch.tensor([2]))
    assert found.index.tolist() == [[1, 3]]


def test_ties_go_to_the_lower_index():
    scores = torch.tensor([1.0, 2.0] * 300)[None]
    assert top_k_selection(scores, torch.tensor([400])).index[0].tolist() == sorted(
        [*range(1, 600, 2), *range(0, 200, 2)]
    )


def test_rows_may_keep_different_counts():
    found = top_k_selection(torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]]), torch.tensor([3, 1]))
    assert found.valid.tolist() == [[True] * 3, [True, False, False]]
    assert found.mask(3).tolist() == [[True] * 3, [False, False, True]]


def test_invalid_tokens_are_never_kept():
    valid = torch.tensor([[True, False, True, False]])
    found = top_k_selection(torch.tensor([[0.0, 9.0, 1.0, 9.0]]), torch.tensor([3]), valid)
    assert found.mask(4).tolist() == [[True, False, True, False]]


def test_scores_that_are_not_finite_still_give_the_whole_count():
    scores = torch.tensor([[float("nan"), float("-inf"), 1.0, float("inf")]])
    assert top_k_selection(scores, torch.tensor([2])).index.tolist() == [[2, 3]]
    assert top_k_selection(torch.tensor([[float("nan"), -1.0, -2.0]]), torch.tensor([2])).index.tolist() == [[1, 2]]
    assert top_k_selection(scores, torch.tensor([4])).mask(4).all()


def test_equal_in_low_precision_is_compared_as_given():
    scores = torch.tensor([[1.0, 1.0078125, 1.0]], dtype=torch.bfloat16)
    assert top_k_selection(scores, torch.tensor([1])).index.tolist() == [[1]]


def test_nothing_may_be_kept():
    found = top_k_selection(torch.rand(2, 5), torch.tensor([0, 0]))
    assert not found.mask(5).any()


def test_a_filler_does_not_hide_the_last_token():
    found = Selection(torch.tensor([[4, 4]]), torch.tensor([[True, False]]))
    assert found.mask(5).tolist() == [[False] * 4 + [True]]


def test_merging_weighs_the_tokens_that_are_absorbed():
    tokens = torch.tensor([[[1.0], [3.0], [5.0]]])
    merge = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]])
    found = Selection(torch.tensor([[0, 2]]), merge=merge).apply(tokens)
    assert found.tolist() == [[[2.0], [5.0]]]


def test_without_merging_the_tokens_stay_as_they_are():
    tokens = torch.randn(2, 4, 3, dtype=torch.bfloat16)
    index = torch.tensor([[0, 3], [1, 2]])
    assert torch.equal(Selection(index).apply(tokens), gather_tokens(tokens, index))


def test_values_stand_in_for_the_kept_tokens_and_keep_their_gradient():
    tokens, scale = torch.randn(2, 5, 3), torch.rand(2, 5, requires_grad=True)
    plain = Selection(torch.arange(5).expand(2, 5))
    scaled = Selection(plain.index, values=scale[..., None] * tokens)
    assert torch.equal(scaled.apply(tokens), scale[..., None] * tokens) and scaled.changes and not plain.changes
    scaled.apply(tokens).sum().backward()
    torch.testing.assert_close(scale.grad, tokens.sum(-1))
    assert scaled.apply(tokens.bfloat16()).dtype == torch.bfloat16


def test_the_earliest_of_an_order_are_kept_and_a_repetition_counts_once():
    order = torch.tensor([[4, 2, 4, 0], [1, 0, 3, 2]])
    assert from_order(order, torch.tensor([2, 2]), 5).index.tolist() == [[2, 4], [0, 1]]
    assert from_order(torch.tensor([[2, 4, 4, 4]]), torch.tensor([1]), 5).index.tolist() == [[2]]
    found = from_order(order, torch.tensor([1, 3]), 5)
    assert found.mask(5).int().tolist() == [[0, 0, 0, 0, 1], [1, 1, 0, 1, 0]]


def test_a_row_with_fewer_real_tokens_than_it_may_keep_keeps_these():
    valid = torch.tensor([[True, False, True, False, False], [True] * 5])
    found = top_k_selection(
        torch.tensor([[1.0, 9.0, 2.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0, 5.0]]), torch.tensor([4, 3]), valid
    )
    assert torch.equal(found.mask(5)[0], valid[0]) and found.valid.sum(1).tolist() == [2, 3]


def test_a_joined_loss_is_the_mean_of_its_rows():
    parts = [(rows, Selection(torch.zeros(len(rows), 1, dtype=torch.long), losses={"own": loss}))
             for rows, loss in ((torch.tensor([0, 1, 3]), torch.tensor(1.0)), (torch.tensor([2]), torch.tensor(5.0)))]  # fmt: skip
    assert float(merge_rows(parts, torch.zeros(4, 2, 3)).losses["own"]) == 2
