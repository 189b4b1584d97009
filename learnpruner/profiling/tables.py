"""Tables of times and sizes, made from results (the contents of results.json) alone."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from learnpruner.evaluation.table_format import Column, Result, Table, build_table, decimal, mebibytes


def latency_table(result: Result) -> Table:
    """List milliseconds of each plan at each batch size, how many times faster than the unpruned model, and GPU memory."""
    rows = [
        {"batch": batch["batch_size"], "plan": name, **timing}
        for batch in result["batches"]
        for name, timing in batch["timings"].items()
    ]
    keys = [key.removesuffix("_ms") for key in rows[0] if key.endswith("_ms")]
    titles = {key: key.replace("_", " ").replace("ttft", "TTFT") for key in keys}

    def time(key: str) -> Column:
        unit = "ms/token" if key == "decode" else "ms"
        return Column(f"{titles[key]} {unit}", lambda row: decimal(row[f"{key}_ms"]))

    def gain(key: str) -> Column:
        return Column(titles[key], lambda row: decimal(row[f"speedup_{key}"], 2, "x"))

    names = [Column("batch", lambda row: str(row["batch"])), Column("plan", itemgetter("plan"))]
    peak = Column("peak MiB", lambda row: mebibytes(row["peak_bytes"] or None))
    return build_table([*names, *map(time, keys), *map(gain, keys), peak], rows)


def train_step_table(result: Result) -> Table:
    """List milliseconds and GPU memory of a training step, beside those of the unpruned model's forward pass."""
    rows = [{"pass": "unpruned forward", **result["forward"]}, {"pass": "training step", **result["step"]}]
    columns = [
        Column("images", lambda row: str(result["images"])),
        Column("pass", itemgetter("pass")),
        Column("ms", lambda row: decimal(row["ms"])),
        Column("of a forward pass", lambda row: decimal(row["ms"] / result["forward"]["ms"], 2, "x")),
        Column("kept for backward MiB", lambda row: mebibytes(row.get("saved_bytes"))),
        Column("peak MiB", lambda row: mebibytes(row["peak_bytes"] or None)),
    ]
    return build_table(columns, rows)


def cost_sentence(values: Mapping[str, Any]) -> str:
    """Word in a sentence the FLOPs and KV bytes of one prompt."""
    before, after, ratio = values["unpruned"], values["pruned"], values["ratio"]
    giga = [one["flops"]["total"] / 1e9 for one in (before, after)]
    mebi = [one["kv_bytes"] / 2**20 for one in (before, after)]
    return (
        f"One prompt with {values['text_tokens']} text tokens: {giga[0]:.2f} -> {giga[1]:.2f} GFLOPs to the first token "
        f"({ratio['flops']:.2f}x fewer), KV cache {mebi[0]:.2f} -> {mebi[1]:.2f} MiB ({ratio['kv_bytes']:.2f}x smaller)."
    )
