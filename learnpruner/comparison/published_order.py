"""Whether our order of methods is the published one: Spearman's rank correlation over the methods that stand in both.

Letters: M methods, P shuffles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from learnpruner.comparison.method_runs import OK

PUBLISHED = Path(__file__).with_name("published_retention.json")
PROTOCOL_KINDS = {
    "general": None,
    "ocr_heavy": "reading",
}  # what of ours is put in order: retention, or one kind's accuracy
SAME_BUDGET = 0.03  # how far a prune_ratio may lie off tokens / 576: 0.111 stands for 64, 0.055 for 32
FEWEST = 4  # methods below which nothing is said of an order
SHUFFLES = 9_999


def rank_agreement(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> tuple[float | None, float | None]:
    """Compute Spearman's correlation, and the share of orders at random that agree or disagree as much.

    Args:
        ours: (M,) figures of some methods; ties have their mean rank.
        theirs: (M,) figures of the same methods.
        seed: of the shuffles.

    Returns:
        Both None of fewer than four methods, or where one side has no order.
    """
    from scipy import stats  # loaded with the table alone

    if len(ours) < FEWEST or len(set(ours)) == 1 or len(set(theirs)) == 1:
        return None, None
    first, second = (stats.rankdata(values) - (len(values) + 1) / 2 for values in (ours, theirs))
    shuffled = np.random.default_rng(seed).permuted(np.tile(first, (SHUFFLES, 1)), axis=1) @ second
    as_much = np.abs(shuffled) >= abs(first @ second) - 1e-9
    return float(stats.spearmanr(ours, theirs).statistic), float((1 + as_much.sum()) / (1 + SHUFFLES))


def our_figure(row: Mapping[str, Any], kind: str | None) -> float | None:
    """Find what a method is put in order by: its retention, or its accuracy on one kind; None where it did not run."""
    if row["status"] != OK:
        return None
    value: float | None = row["retention"]["value"] if kind is None else row["accuracy"].get(kind)
    return value


def published_agreement(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare the rows of a results.json with each published column whose budget was run.

    Returns:
        For each its `protocol`, `tokens`, `prune_ratio`, the kind of question or None for retention, the `methods` in both,
        `spearman` and `p`.
    """
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    known = {(row["method"], row["prune_ratio"]): row for row in rows}
    present, found = {row["method"] for row in rows}, []
    for protocol, kind in PROTOCOL_KINDS.items():
        for tokens in (64, 32):
            share = tokens / published["tokens_of_image"]
            near = [ratio for _, ratio in known if abs(ratio / share - 1) <= SAME_BUDGET]
            if not near:
                continue
            ratio = min(near, key=lambda ratio: abs(ratio - share))
            both = {}
            for one in published["methods"]:
                name = next((name for name in one["configs"] if name in present), None)
                theirs = one.get(protocol, {}).get(str(tokens))
                ours = our_figure(known[name, ratio], kind) if (name, ratio) in known else None
                if name is not None and theirs is not None and ours is not None:
                    both[name] = (ours, theirs)
            if not both:
                continue
            ours_all, theirs_all = zip(*both.values(), strict=True)
            correlation, p = rank_agreement(ours_all, theirs_all)
            about = {"protocol": protocol, "tokens": tokens, "prune_ratio": ratio, "kind": kind, "methods": list(both)}
            found.append({**about, "spearman": correlation, "p": p})
    return found


def agreement_lines(agreement: Sequence[Mapping[str, Any]]) -> list[str]:
    """Word what to print below the table; nothing where no published budget was run."""
    if not agreement:
        return []
    heads = {
        "general": "Order against the published one, LLaVA-1.5-7B (Spearman over methods in both)",
        "ocr_heavy": "The same of accuracy on reading alone, against the OCR-heavy protocol",
    }
    lines = []
    for protocol, head in heads.items():
        cells = [column_words(one) for one in agreement if one["protocol"] == protocol]
        lines += [f"{head}: {'; '.join(cells)}."] if cells else []
    return [
        *lines,
        f"n methods are few: one of them moves such a number by tenths. p is the share of {SHUFFLES:,} random orders that agree or "
        "disagree as much; papers differ in benchmarks and in how they count a budget, and methods that cannot have it here are left out.",
    ]


def column_words(one: Mapping[str, Any]) -> str:
    """Word one correlation: "64 tokens 0.71 (n = 12, p = 0.01)"."""
    n = len(one["methods"])
    if one["spearman"] is None:
        return f"{one['tokens']} tokens - (n = {n}, too few or all equal)"
    return f"{one['tokens']} tokens {one['spearman']:.2f} (n = {n}, p = {one['p']:.2g})"
