"""Pictures: which visual tokens were kept, and accuracy against tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from learnpruner.evaluation.examples import ExampleResult

INK, FAINT = "#22262b", "#7a828c"
RIGHT, WRONG = "#1a7f45", "#c0352b"
MAIN, LINES = "#0b6bcb", ("#c8641b", "#1a7f45", "#8a4fbf", "#4a5560", "#b0892b", "#a8326e")
PLAIN: Any = {"text.parse_math": False}  # a $ in a question, an answer or a name is no formula
VEIL = 0.80  # share of white over a dropped patch; higher hides more


def enlarged(kept: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """Enlarge a patch mask (h, w) to pixels (H, W), by the nearest patch."""
    rows = np.arange(height) * kept.shape[0] // height
    columns = np.arange(width) * kept.shape[1] // width
    return kept[rows][:, columns]


def veiled(image: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Show the image with dropped patches in faint grey."""
    mask = enlarged(kept, *image.shape[:2])[..., None]
    grey = image.mean(-1, keepdims=True)
    return np.where(mask, image, VEIL + (1 - VEIL) * grey)


def outline(kept: NDArray[np.bool_], height: int, width: int) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Find the edges between kept and other patches as line segments in pixel coordinates."""
    padded = np.pad(kept, 1)
    y, x = height / kept.shape[0], width / kept.shape[1]
    segments = []
    for row, column in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]):
        segments.append(((column * x - 0.5, row * y - 0.5), ((column + 1) * x - 0.5, row * y - 0.5)))
    for row, column in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]):
        segments.append(((column * x - 0.5, row * y - 0.5), (column * x - 0.5, (row + 1) * y - 0.5)))
    return segments


def panel(axes: Axes, image: NDArray[np.float64], title: str) -> None:
    """Draw one image without axes, under a title."""
    axes.imshow(np.clip(image, 0, 1), interpolation="antialiased")
    axes.set_title(title, fontsize=8, color=FAINT, pad=4)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#c9ced4")
        spine.set_linewidth(0.6)


def caption(axes: Axes, name: str, answer: str, right: bool | None) -> None:
    """Write an answer under a panel: green where it is right, red where it is wrong."""
    color = INK if right is None else RIGHT if right else WRONG
    mark = "" if right is None else " ✓" if right else " ✗"
    given = shorten(answer, 60, placeholder=" ...") or "(nothing)"
    axes.set_xlabel(fill(f"{name}: {given}{mark}", 27), fontsize=8.5, color=color, labelpad=4)


def draw_look(figure: Figure | SubFigure, look: ExampleResult) -> None:
    """Draw the image, then one panel a stage, under the question."""
    axes = figure.subplots(1, 1 + len(look.kept), squeeze=False)[0]
    height, width = look.image.shape[:2]
    truth = "" if look.answer is None else f" (truth: {shorten(look.answer, 60, placeholder=' ...')})"
    question = fill(shorten(look.question, 300, placeholder=" ...") + truth, 22 * len(axes))
    figure.suptitle(question, fontsize=10, fontweight="bold", color=INK)
    patches = look.kept[0][1].size if look.kept else 0
    panel(axes[0], look.image, f"{patches} visual tokens" if patches else "unpruned")
    caption(axes[0], "unpruned", look.unpruned, look.unpruned_right)
    for ax, (title, kept) in zip(axes[1:], look.kept, strict=True):
        panel(ax, veiled(look.image, kept), f"{title}: {int(kept.sum())}")
        ax.add_collection(LineCollection(outline(kept, height, width), colors=INK, linewidths=0.7))
    if look.kept:
        caption(axes[-1], "pruned", look.pruned, look.pruned_right)


@rc_context(PLAIN)
def draw_looks(looks: Sequence[ExampleResult], path: Path, title: str = "", columns: int = 2) -> Path:
    """Draw several examples on one page, `columns` beside each other; written as PNG."""
    columns = min(columns, len(looks))
    rows = -(-len(looks) // columns)
    panels = 1 + max(len(look.kept) for look in looks)
    width = columns * (1.75 * panels + 0.5)
    heading = fill(title, int(11 * width))  # 11 letters an inch at this size
    figure = Figure(figsize=(width, rows * 2.5 + 0.25 * len(heading.splitlines())), layout="constrained")
    if heading:
        figure.suptitle(heading, fontsize=10, color=FAINT)
    parts = figure.subfigures(rows, columns, squeeze=False, wspace=0.03, hspace=0.04)
    for part, look in zip(parts.flat, looks, strict=False):
        draw_look(part, look)
    return saved(figure, path)


@rc_context(PLAIN)
def draw_sweep(results: Sequence[Mapping[str, Any]], path: Path, label: str = "learnpruner") -> Path:
    """Draw retention against realised visual tokens over several results; written as PNG.

    One line a plan; a band shows the 95 % interval of the results' own plan, and a baseline with text attention behind
    (`+text`) is the dashed line in its baseline's colour.

    Args:
        results: contents of results.json, one a budget.
        path: of the picture.
        label: the name of the results' own plan.
    """
    curves: dict[str, list[tuple[float, Mapping[str, Any]]]] = {label: []}
    for result in results:
        curves[label].append((result["tokens"]["averaged"], result["retention"]))
        for name, row in result["baselines"].items():
            curves.setdefault(name, []).append((row["tokens"]["averaged"], row["retention"]))
    roots = list(dict.fromkeys(name.removesuffix("+text") for name in curves if name != label))
    colors = {root: LINES[i % len(LINES)] for i, root in enumerate(roots)}
    figure = Figure(figsize=(7.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        known = sorted(((tokens, v) for tokens, v in points if v["value"] is not None), key=lambda point: point[0])
        x, y = [tokens for tokens, _ in known], [100 * v["value"] for _, v in known]
        if name == label:
            axes.plot(x, y, "o-", color=MAIN, markersize=5, linewidth=2.2, zorder=3, label=name)
            low, high = ([100 * v[end] for _, v in known] for end in ("low", "high"))
            axes.fill_between(x, low, high, color=MAIN, alpha=0.15, linewidth=0)
        else:
            line = "o--" if name.endswith("+text") else "o-"
            axes.plot(x, y, line, color=colors[name.removesuffix("+text")], markersize=3, linewidth=1.1, label=name)
    axes.set_xscale("log", base=2)
    ticks = sorted({round(tokens, 1) for points in curves.values() for tokens, _ in points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("visual tokens kept, average over the LLM's layers")
    axes.set_ylabel("retention, % of the unpruned score")
    axes.axhline(100, color=FAINT, linewidth=0.8, linestyle=":")
    axes.grid(axis="y", color="#e3e6ea", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside right center")
    return saved(figure, path)


def saved(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white", bbox_inches="tight", pad_inches=0.06)  # no title or answer is cut
    return path
