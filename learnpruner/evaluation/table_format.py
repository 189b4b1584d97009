"""Tables of text, built from columns, and written for a terminal, in Markdown or as CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]
Table = list[list[str]]
BYTES_PER_MIB = 2**20


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        title: what stands at its head.
        cell: from a row's values to its text.
    """

    title: str
    cell: Callable[[Any], str]


def build_table(columns: Sequence[Column], rows: Iterable[Any]) -> Table:
    """Build a header and one line a row."""
    return [[column.title for column in columns], *([column.cell(row) for column in columns] for row in rows)]


def percent(value: float | None) -> str:
    """Format a fraction of 1 in percent with one decimal, `-` where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


def decimal(value: float | None, digits: int = 1, unit: str = "") -> str:
    """Format a number with so many decimals, `-` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def mebibytes(size: float | None, digits: int = 0) -> str:
    """Format a size of bytes in MiB, `-` where there is none."""
    return "-" if size is None else decimal(size / BYTES_PER_MIB, digits)


def percent_interval(interval: Mapping[str, float | None]) -> str:
    """Format a value with its 95 % interval in percent: 93.7 [91.0, 96.2]."""
    if interval["value"] is None:
        return "-"
    return f"{percent(interval['value'])} [{percent(interval['low'])}, {percent(interval['high'])}]"


def difficult_column(rows: Iterable[Result]) -> list[Column]:
    """Make the column of scores on samples that downsampling loses, with their number; none where no row has one."""
    known = [row["difficult"] for row in rows if row.get("difficult")]
    if not known:
        return []

    def cell(row: Result) -> str:
        return percent_interval(row["difficult"]) if row.get("difficult") else "-"

    return [Column(f"difficult, n = {known[0]['samples']}", cell)]


def display_name(name: str, row: Result) -> str:
    """Name a plan as tables call it: one that changes the model itself says so."""
    return f"{name} ({row['adapts']})" if row.get("adapts") else name


def kind_columns(kinds: Iterable[str]) -> list[Column]:
    """Make a column for the accuracy of each kind of question, of rows with an `accuracy`."""

    def column(kind: str) -> Column:
        return Column(kind, lambda row: percent(row["accuracy"][kind]))

    return [column(kind) for kind in kinds]


def average_tokens(row: Result) -> str:
    """Format the visual tokens on the average of the LLM's layers."""
    return f"{row['tokens']['averaged']:.1f}"


def plan_rows(result: Result, label: str) -> list[dict[str, Any]]:
    """List the unpruned model, the baselines from worst to best, then the plan itself.

    Args:
        result: contents of results.json.
        label: the plan's name.

    Returns:
        For each its `plan` among the results, `name`, `tokens`, `accuracy` by kind, and what is `kept`.
    """
    parts = sorted(result["baselines"].items(), key=lambda item: (item[1]["retention"]["value"] or 0.0, item[0]))
    parts += [(label, result)] if result["plan"] is not None else []
    rows = [
        {"plan": "unpruned", "name": "unpruned", "tokens": "all", "accuracy": result.get("unpruned"), "kept": "100.0"}
    ]
    for name, part in parts:
        kept = {"accuracy": part.get("accuracy"), "kept": percent_interval(part["retention"])}
        kept |= {"difficult": part["difficult"]} if part.get("difficult") else {}
        rows.append({"plan": name, "name": display_name(name, part), "tokens": average_tokens(part), **kept})
    return rows


PLAN_COLUMNS = (Column("plan", itemgetter("name")), Column("tokens", itemgetter("tokens")))


def text_table(cells: Table) -> str:
    """Align columns for a terminal: names to the left, numbers to the right, a rule under the header."""
    first, *others = (max(map(len, column)) for column in zip(*cells, strict=True))
    lines = []
    for name, *values in cells:
        numbers = (value.rjust(width) for value, width in zip(values, others, strict=True))
        lines.append("  ".join([name.ljust(first), *numbers]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(cells: Table) -> str:
    """Write the same table for a README."""
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|---" + "|---:" * (len(cells[0]) - 1) + "|", *lines[1:]])


def read_markdown_table(page: str) -> Table:
    """Read the first table of a page that `markdown_table` wrote."""
    lines = page.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|---")) - 1
    table = takewhile(lambda line: line.startswith("| "), [lines[first], *lines[first + 2 :]])
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table]


def write_csv(path: Path, head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a table of plain values, None as an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
    return path
