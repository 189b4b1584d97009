"""What conversations came to under each policy: accuracy, agreement and cost, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from learnpruner.benchmarks.base import normalise_answer
from learnpruner.data.sample import Sample
from learnpruner.evaluation.statistics import retention
from learnpruner.evaluation.table_format import (
    Column,
    Table,
    build_table,
    decimal,
    mebibytes,
    percent,
    percent_interval,
)
from learnpruner.kv_eviction.conversation import ConversationResult

_Answers = list[list[str]]
_ALONE, _GROWING = "each question alone", "whole cache"


@dataclass(frozen=True)
class ConversationRow:
    """A line of the table: a visual plan or none, a policy and its budget or none."""

    plan: str
    policy: str
    budget: int | None = None


def measure_rows(
    found: Mapping[ConversationRow, Sequence[tuple[ConversationResult, _Answers | None]]], samples: Sequence[Sample]
) -> list[dict[str, Any]]:
    """Measure accuracy, agreement and cost of each row, ready for results.json."""
    answers = {row: [one for said, _ in parts for one in said.answers] for row, parts in found.items()}
    truth = [[answer for _, answer in sample.turns] for sample in samples]
    reference = exact_matches(answers[ConversationRow("none", _ALONE)], truth)
    rows = []
    for row, parts in found.items():
        right = exact_matches(answers[row], truth)
        conversation = np.repeat(np.arange(len(truth)), right.shape[1])
        kept = retention(right.ravel(), reference.ravel(), np.zeros(right.size, dtype=np.int64), conversation)
        apart = [one for _, some in parts for one in some or ()]
        seconds = sum(said.seconds for said, _ in parts)
        rows.append(
            asdict(row)
            | {
                "accuracy": right.mean(),
                "last_turns": right[:, -max(1, right.shape[1] // 4) :].mean(),
                "separate": exact_matches(apart, truth).mean() if apart else None,
                "agreement": exact_matches(answers[row], answers[ConversationRow("none", _ALONE)]).mean(),
                "retention": asdict(kept),
                "kv_bytes": sum(said.kv_bytes for said, _ in parts) / len(parts) or None,
                "slots": sum(said.slots for said, _ in parts) / len(parts) or None,
                "tokens_per_second": sum(said.tokens for said, _ in parts) / seconds if seconds else None,
            }
        )
    return rows


def exact_matches(said: Sequence[Sequence[str]], aim: Sequence[Sequence[str]]) -> np.ndarray:
    """Mark with 1 where an answer is the one aimed at: (conversations, turns)."""
    pairs = [
        [normalise_answer(a) == normalise_answer(b) for a, b in zip(*rows, strict=True)]
        for rows in zip(said, aim, strict=True)
    ]
    return np.array(pairs, dtype=np.float64)


def conversation_table(result: Mapping[str, Any]) -> Table:
    """Build a line a row, for terminals and Markdown."""
    columns = [
        Column("visual plan", itemgetter("plan")),
        Column("policy", itemgetter("policy")),
        Column("budget", lambda row: str(row["budget"] or "-")),
        Column("accuracy", lambda row: percent(row["accuracy"])),
        Column("of alone 95 %", lambda row: percent_interval(row["retention"])),
        Column("last turns", lambda row: percent(row["last_turns"])),
        Column("separate", lambda row: percent(row["separate"])),
        Column("agreement", lambda row: percent(row["agreement"])),
        Column("slots", lambda row: decimal(row["slots"], 0)),
        Column("KV MiB", lambda row: mebibytes(row["kv_bytes"], 2)),
        Column("tokens/s", lambda row: decimal(row["kv_bytes"] and row["tokens_per_second"], 0)),
    ]
    return build_table(columns, result["rows"])
