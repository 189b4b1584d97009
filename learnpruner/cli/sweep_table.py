"""The table over a sweep: a line a job, a column for each setting that differs between them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from learnpruner.evaluation import table_format
from learnpruner.evaluation.accuracy_tables import sweep_table
from learnpruner.evaluation.reports import drawn
from learnpruner.utils.io import write_text_atomically
from learnpruner.utils.privacy import command_line


def sweep_summary(folder: Path) -> str | None:
    """Word what is printed at the end of a sweep: its table, and how its jobs compare; None where none has results."""
    if (cells := write_sweep_table(folder)) is None:
        return None
    exports = [f"{path.parent}/export" for path in _results(folder) if (path.parent / "export").is_dir()]
    compared = f"python -m learnpruner.comparison.compare_exports {shlex.join(exports)}"
    paired = f"\nintervals of the differences, pair by pair: {compared}" if len(exports) > 1 else ""
    return f"{table_format.text_table(cells)}\nsweep: {folder / 'sweep.md'}{paired}"


def write_sweep_table(folder: Path) -> table_format.Table | None:
    """Write the table of all jobs of a sweep that have results; return it, or None where there is none."""
    if not (found := _results(folder)):
        return None
    results = [json.loads(path.read_text()) for path in found]
    settings = [_settings(path.parent / ".hydra" / "overrides.yaml") for path in found]
    varied = varied_settings(settings)
    rows = [sweep_table([result]) for result in results]
    shown = [key for key in varied if key not in rows[0][0]]
    cells = [["job", *shown, *rows[0][0]]] + [
        [path.parent.name, *(given.get(key, "-") for key in shown), *row[1]]
        for path, given, row in zip(found, settings, rows, strict=True)
    ]
    (folder / "sweep.md").write_text(f"# Sweep\n\n{table_format.markdown_table(cells)}\n", encoding="utf-8")
    jobs = [
        {"folder": path.parent.name, "settings": {key: given.get(key) for key in varied}, **result}
        for path, given, result in zip(found, settings, results, strict=True)
    ]
    write_text_atomically(folder / "sweep.json", json.dumps(jobs, indent=2) + "\n")
    if len({result["tokens"]["averaged"] for result in results}) == len(results) > 1:
        drawn(lambda: _picture(results, folder / "sweep.png"))
    return cells


def _picture(results: Sequence[table_format.Result], path: Path) -> Path:
    from learnpruner.evaluation.plots import draw_sweep

    return draw_sweep(results, path)


def varied_settings(settings: Sequence[dict[str, str]]) -> list[str]:
    """List keys whose values differ between jobs, in the order of the command line."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len({one.get(key) for one in settings}) > 1]


def _results(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/results.json"), key=lambda path: int(path.parent.name))


def _settings(overrides: Path) -> dict[str, str]:
    """What the command line of a job sets."""
    words = [command_line([str(word)]) for word in OmegaConf.load(overrides)]
    return {word.partition("=")[0].lstrip("+~"): word.partition("=")[2] for word in words}
