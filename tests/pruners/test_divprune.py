"""DivPrune against a plain loop."""

import pytest
import torch

from learnpruner import View
from learnpruner.pruners.divprune import DivPrune, max_min_order


def loop(tokens, keep):
    """One image, from the rule: distances, and the farthest from those chosen each time."""
    unit = [token.double() / token.double().norm() for token in tokens]
    n = len(unit)
    distance = [[1 - float(unit[i] @ unit[j]) for j in range(n)] for i in range(n)]
    chosen = [max(range(n), key=lambda i: (min((distance[i][j] for j in range(n) if j != i), default=0), -i))]
    while len(chosen) < keep:
        rest = [i for i in range(n) if i not in chosen]
        chosen.append(max(rest, key=lambda i: (min(distance[i][j] for j in chosen), -i)))
    return chosen


@pytest.mark.parametrize("keep", [1, 2, 9, 30])
def test_it_equals_a_plain_loop(keep):
    tokens = torch.randn(3, 30, 6)
    expected = [loop(row, keep) for row in tokens]
    assert max_min_order(tokens, keep).tolist() == expected
    assert DivPrune()(View(tokens), torch.tensor([keep] * 3)).index.tolist() == [sorted(row) for row in expected]


def test_rows_may_have_budgets_and_tokens_of_their_own():
    tokens, valid = torch.randn(2, 30, 6), torch.arange(30) < torch.tensor([[30], [12]])
    found = DivPrune()(View(tokens, valid), torch.tensor([19, 5])).mask(30)
    assert found[0].nonzero()[:, 0].tolist() == sorted(loop(tokens[0], 19))
    assert found[1].nonzero()[:, 0].tolist() == sorted(loop(tokens[1, :12], 5))


def test_copies_come_last():
    tokens = torch.eye(8)[[0, 0, 0, 1, 2, 3, 4, 5]][None]
    assert DivPrune()(View(tokens), torch.tensor([6])).index.tolist() == [[0, 3, 4, 5, 6, 7]]


def test_the_length_of_a_token_does_not_matter():
    tokens = torch.randn(1, 30, 6)
    longer = tokens * torch.rand(1, 30, 1).add(0.1)
    assert torch.equal(max_min_order(tokens, 12), max_min_order(longer, 12))
