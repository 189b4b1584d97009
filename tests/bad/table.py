"""What came of the cases, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bad.case import Outcome

WIDEST = 80  # characters of a case in the table
WIDTH = 200  # characters of a sentence in the table


def line(outcome: Outcome, width: int) -> str:
    """One case on one line."""
    what = shown(f"{outcome.kind}: {outcome.name}")[:WIDEST]
    return f"{what.ljust(min(width, WIDEST))}  {outcome.code!s:>4}  {outcome.verdict}  {cut(outcome.sentence)}"


def markdown(outcomes: Sequence[Outcome]) -> str:
    """One table a kind."""
    kinds = list(dict.fromkeys(one.kind for one in outcomes))
    parts = []
    for kind in kinds:
        rows = [one for one in outcomes if one.kind == kind]
        lines = [f"### {kind.capitalize()}: {len(rows)}", "", "| input | exit code | sentence | verdict |"]
        lines += ["|---|---:|---|---|"]
        lines += [f"| {cell(one.name)} | {one.code} | {cell(cut(one.sentence))} | {one.verdict} |" for one in rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def summary(outcomes: Sequence[Outcome], seconds: float, cpu: float) -> str:
    kinds = Counter(one.kind for one in outcomes)
    wrong = sum(bool(one.wrong) for one in outcomes)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"{len(outcomes)} cases ({told}): {len(outcomes) - wrong} right, {wrong} wrong, in {seconds:.0f} s ({cpu:.0f} s of processors)"


def shown(value: str) -> str:
    """Such that a line stays a line."""
    return value.encode("unicode_escape").decode() if not value.isprintable() else value


def cut(value: str) -> str:
    value = shown(value)
    return value if len(value) <= WIDTH else f"{value[:WIDTH]}..."


def cell(value: str) -> str:
    """Text as a cell of a table in Markdown."""
    return "`" + shown(value).replace("`", "'").replace("|", "\\|") + "`" if value else ""
