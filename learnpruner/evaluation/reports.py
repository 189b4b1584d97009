"""The sentence and the page of a run, made from its results (the contents of results.json) alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from learnpruner.evaluation.accuracy_tables import accuracy_table
from learnpruner.evaluation.difficult import DIFFICULT_NOTE
from learnpruner.evaluation.table_format import Result, markdown_table, percent

_log = logging.getLogger(__name__)


def excluded_kinds(unpruned: Mapping[str, float | None]) -> str:
    """Word which kinds retention leaves out, "" where it counts all. unpruned: accuracy by kind, and their mean."""
    kinds = [kind for kind, accuracy in unpruned.items() if accuracy == 0 and kind != "mean"]
    return f"Retention leaves out {', '.join(kinds)}, where the unpruned model has nothing right." if kinds else ""


def retention_summary(result: Result) -> str:
    """Word what the plan keeps, how far that is from the best baseline, over which kinds, and what difficult samples are."""
    hard = DIFFICULT_NOTE if result.get("difficult") else ""
    parts = [retention_sentence(result), excluded_kinds(result["unpruned"]), hard]
    return " ".join(part for part in parts if part)


def retention_sentence(result: Result) -> str:
    """Word in one sentence what the plan keeps, and how far that is from the best baseline."""
    own = result["retention"]["value"]
    if result["plan"] is None or own is None:
        mean = percent(result["unpruned"]["mean"])
        return f"Unpruned: mean accuracy {mean} % on {result['samples']} samples of {result['benchmark']}."
    tokens = result["tokens"]["averaged"]
    sentence = f"Keeps {percent(own)} % of the unpruned score with {tokens:.1f} visual tokens on average"
    known = {name: one["retention"]["value"] for name, one in result["baselines"].items()}
    best = max((name for name in known if known[name] is not None), key=lambda name: known[name], default=None)
    if best is None:
        return sentence + "."
    points = 100 * (own - known[best])
    return f"{sentence}; {abs(points):.1f} points {'above' if points >= 0 else 'below'} the best baseline ({best})."


def write_report(result: Result, path: Path, pictures: Sequence[Path] = (), label: str = "learnpruner") -> Path:
    """Write the report page in Markdown: what was measured, the table, the pictures.

    Args:
        result: contents of results.json.
        path: of the page.
        pictures: beside it.
        label: the plan's name.

    Returns:
        The path.
    """
    head = f"# {label} on {result['benchmark']}\n\n{retention_summary(result)}"
    facts = f"Backbone {result['backbone']}, {result['samples']} samples, commit {result['commit'] or 'unknown'}."
    images = [f"![{picture.stem}]({picture.name})" for picture in pictures]
    path.write_text(
        "\n\n".join([head, facts, markdown_table(accuracy_table(result, label)), *images]) + "\n", encoding="utf-8"
    )
    return path


def drawn(draw: Callable[[], Path]) -> list[Path]:
    """Draw a picture of results that are written already; one that fails is left out with a warning.

    Args:
        draw: makes the picture, and loads matplotlib for that.

    Returns:
        The picture's file, or nothing.
    """
    try:
        return [draw()]
    except Exception as error:  # whatever a model, a font or a disk raises: the results are there
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        _log.warning("the picture is left out (%s); the results are complete without it", reason)
        return []
