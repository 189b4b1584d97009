"""Accuracy against realised tokens: a few methods named at the ends of their lines, all others in grey.

python -m learnpruner.comparison.plot docs/results/peers.json docs/peers.png      from a results.json, drawn again
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learnpruner.comparison.method_runs import OK
from learnpruner.comparison.table import name, ranked
from learnpruner.evaluation.plots import FAINT, LINES, MAIN, PLAIN, saved
from learnpruner.utils.argtypes import exit_on_bad_input
from learnpruner.utils.errors import UserError

NAMED = (
    "cdpruner",
    "divprune",
    "vispruner",
    "tome",
    "visionzip",
    "fastv",
    "random",
)  # the best, the usual, the control
NAMED_COLORS = (MAIN, *LINES, "#12858a")  # as many lines have a name
GREY = "#ccd1d7"


@rc_context(PLAIN)
def draw_peers(result: Mapping[str, Any], path: Path, main: str = "learnpruner") -> Path:
    """Draw mean accuracy of every method against the visual tokens that it ran on, fewer to the right.

    Args:
        result: the contents of a results.json of `benchmark=compare_methods`.
        path: the PNG to write.
        main: the method of the thick line.

    Returns:
        The path.
    """
    figure = Figure(figsize=(9.5, 5.6), layout="constrained")
    axes = figure.subplots()
    ran = [row for row in result["rows"] if row["status"] == OK]
    order = ranked(ran)
    colors = dict(zip(highlighted(order, main), NAMED_COLORS, strict=False))
    ends = []
    for method in order:
        rows = sorted((row for row in ran if row["method"] == method), key=lambda row: row["tokens"]["averaged"])
        x, y = [row["tokens"]["averaged"] for row in rows], [100 * row["accuracy"]["mean"] for row in rows]
        style: dict[str, Any] = {"color": colors.get(method, GREY), "linewidth": 1.5, "marker": "o", "markersize": 3.5}
        style |= {"zorder": 3} if method in colors else {"linewidth": 0.8, "markersize": 2, "zorder": 1}
        style |= {"linewidth": 2.6, "markersize": 5, "zorder": 4} if method == main else {}
        axes.plot(x, y, label=name(rows[0]), **style)
        if method in colors:
            ends.append((x[0], y[0], name(rows[0]), colors[method]))
    label_ends(axes, ends)
    frame(axes, result, len(order) - len(ends))
    return saved(figure, path)


def highlighted(order: Sequence[str], main: str) -> list[str]:
    """Methods whose lines have a colour and a name: the main one, those of `NAMED`, then the best of the others.

    Args:
        order: the methods that ran, best first.
        main: always among them where it ran.

    Returns:
        At most one a colour, in that order.
    """
    wanted = [*dict.fromkeys([main, *NAMED, *order])]
    return [method for method in wanted if method in order][: len(NAMED_COLORS)]


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names behind the last point of each line, moved up or down where two would lie on each other.

    Args:
        axes: after the lines were drawn.
        ends: x, y, name and colour of each.
    """
    low, high = axes.get_ylim()
    apart = (high - low) / 26  # a line of text
    taken: dict[float, float] = {}
    for x, y, text, color in sorted(ends, key=lambda end: -end[1]):
        column = min(taken, key=lambda other: abs(other / x - 1), default=x)
        column = column if abs(column / x - 1) < 0.1 else x
        place = min(y, taken.get(column, high + apart) - apart)
        taken[column] = place
        shift = (place - y) / (high - low) * axes.bbox.height * 72 / axes.figure.dpi
        axes.annotate(
            text, (x, y), (8, shift), textcoords="offset points", color=color, fontsize=8.5, va="center", zorder=5
        )


def frame(axes: Axes, result: Mapping[str, Any], others: int) -> None:
    """Draw scales, ticks and what the grey lines are."""
    ticks = sorted({round(ratio * result["tokens"]) for ratio in result["prune_ratios"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(1.06 * ticks[-1], ticks[0] / (1.45 if len(ticks) > 1 else 1.02))
    axes.set_xlabel("visual tokens, average over the LLM's layers; fewer to the right")
    axes.set_ylabel("mean accuracy over kinds, %")
    unpruned = 100 * result["unpruned"]["mean"]
    axes.axhline(unpruned, color=FAINT, linewidth=0.9, linestyle=":", zorder=2)
    axes.annotate(
        "unpruned", (0.995, unpruned), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
        fontsize=8, color=FAINT,
    )  # fmt: skip
    if others:
        axes.text(
            0.01,
            0.02,
            f"grey: {others} further methods",
            transform=axes.transAxes,
            fontsize=8,
            color=FAINT,
            va="bottom",
        )
    axes.grid(axis="y", color="#eceef1", linewidth=0.7, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the picture of a results.json that the command line names."""
    parser = argparse.ArgumentParser(description="Draw the picture of a finished benchmark=compare_methods again.")
    parser.add_argument("results", type=Path, help="its results.json")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    options = parser.parse_args(arguments)
    with exit_on_bad_input(parser):
        result = read_results(options.results)
    print(f"picture: {draw_peers(result, options.picture)}")


def read_results(path: Path) -> Mapping[str, Any]:
    """Read a results.json with rows of methods.

    Raises:
        UserError: where it is another file.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a results.json: {error}.") from None
    if not (isinstance(result, dict) and "rows" in result and "prune_ratios" in result):
        raise UserError(f"{path} is no results.json of benchmark=compare_methods: it has no rows of methods.")
    return result


if __name__ == "__main__":
    main()
