"""What every run has, of whichever program: a name, a seed, budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from learnpruner.config.value_ranges import Number
from learnpruner.core.budget import check_ratio
from learnpruner.utils.errors import UserError


def check_name(name: str) -> str:
    """Refuse a run's name that is no folder's: nothing is written outside of where runs lie.

    Raises:
        UserError: where it is empty, or leads elsewhere.
    """
    if not name or name in (".", "..") or Path(name).name != name:
        raise UserError(
            f"name is {name!r}; it names the run's folder: give one word without slashes, such as name=try."
        )
    return name


def _several(ratios: list[float]) -> list[float]:
    """Budgets for one table: at least one, each once."""
    if not ratios or len(set(ratios)) < len(ratios):
        raise UserError(f"prune_ratios is {ratios}; give each budget once, and at least one: prune_ratios=[0.5,0.111].")
    return ratios


def _exists(path: str) -> str:
    if not Path(path).is_file():
        found = "a folder" if Path(path).is_dir() else "missing"
        raise UserError(f"ckpt_path={path} is {found}; it must be a checkpoint of a run, such as last.ckpt.")
    return path


def _given(plan: str) -> str:
    if not plan:
        raise UserError("plan is empty; give an export's folder or a hub id, or leave plan= out.")
    return plan


def _unmixed(benchmark: dict[str, Any]) -> dict[str, Any]:
    """Of a list of benchmarks, composed into one node: none that runs by itself is among the field's."""
    if {"dataset", "datasets"} <= set(benchmark):
        raise UserError("benchmark= lists scenes or speed beside the field's benchmarks: run it by itself.")
    return benchmark


Name = Annotated[str, AfterValidator(check_name)]
Ratio = Annotated[Number, AfterValidator(check_ratio)]
Ratios = Annotated[list[Ratio], AfterValidator(_several)]
Checkpoint = Annotated[str, AfterValidator(_exists)]
PlanPath = Annotated[str, AfterValidator(_given)]
BenchmarkSetting = Annotated[dict[str, Any], AfterValidator(_unmixed)]
