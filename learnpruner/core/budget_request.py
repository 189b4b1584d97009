"""Which budgets one may ask a benchmark for: refused when settings are read, and again by the task that a program runs."""

from __future__ import annotations

from collections.abc import Sequence

from learnpruner.utils.errors import UserError


def refuse_several_budgets(prune_ratios: Sequence[float] | None) -> None:
    """Hold a benchmark that measures a single plan to one budget.

    Args:
        prune_ratios: that are asked for, None where none are.

    Raises:
        UserError: where there are any.
    """
    if prune_ratios is not None:
        raise UserError(
            f"prune_ratios={list(prune_ratios)} is for benchmark=compare_methods; a single plan takes prune_ratio=."
        )


def refuse_single_plan(pruner: object, prune_ratio: float | None) -> None:
    """Hold the comparison of all methods to its own lists of methods and budgets.

    Args:
        pruner: that is asked for, None where none is.
        prune_ratio: likewise.

    Raises:
        UserError: where either is.
    """
    if pruner is not None or prune_ratio is not None:
        raise UserError(
            "benchmark=compare_methods runs every config of conf/pruner: choose by benchmark.methods=[NAME] and "
            "prune_ratios=[0.111], without pruner= and prune_ratio=."
        )
