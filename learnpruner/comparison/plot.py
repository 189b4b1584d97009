"""Accuracy against realised tokens, one line a method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from learnpruner.comparison.method_runs import OK
from learnpruner.comparison.table import name, ranked
from learnpruner.evaluation.plots import FAINT, LINES, MAIN, PLAIN, saved

STROKES = ("-", "--", ":", "-.")
MARKERS = "osD^vPX"


@rc_context(PLAIN)
def draw_peers(result: Mapping[str, Any], path: Path, main: str = "learnpruner") -> Path:
    """Mean accuracy of every method against the visual tokens that it ran on, as PNG; `main` is the thick line.

    The legend is in the order of the table: by retention at the smallest budget.
    """
    figure = Figure(figsize=(9.5, 5.6), layout="constrained")
    axes = figure.subplots()
    ran = [row for row in result["rows"] if row["status"] == OK]
    for number, method in enumerate(ranked(ran)):
        rows = sorted((row for row in ran if row["method"] == method), key=lambda row: row["tokens"]["averaged"])
        x, y = [row["tokens"]["averaged"] for row in rows], [100 * row["accuracy"]["mean"] for row in rows]
        style: dict[str, Any] = {"color": MAIN, "linewidth": 2.4, "zorder": 3, "marker": "o", "markersize": 5}
        if method != main:
            style = {"color": LINES[number % len(LINES)], "linewidth": 1.0, "markersize": 3.5}
            style |= {
                "linestyle": STROKES[number // len(LINES) % len(STROKES)],
                "marker": MARKERS[number % len(MARKERS)],
            }
        axes.plot(x, y, label=name(rows[0]), **style)
    axes.set_xscale("log", base=2)
    ticks = sorted({round(ratio * result["tokens"]) for ratio in result["prune_ratios"]})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("visual tokens, average over the LLM's layers")
    axes.set_ylabel("mean accuracy over kinds, %")
    axes.axhline(100 * result["unpruned"]["mean"], color=FAINT, linewidth=0.9, linestyle=":")
    axes.grid(axis="y", color="#e3e6ea", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        frameon=False,
        fontsize=7.5,
        loc="outside right center",
        title="best at the fewest tokens first",
        title_fontsize=7.5,
    )
    return saved(figure, path)
