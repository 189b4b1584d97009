"""What a job of a sweep has otherwise than the others: part of the name of what it exports."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

LONGEST_NAME = 120  # characters; folders' names end at 255


def swept_settings() -> dict[str, str]:
    """List this job's value of every setting that the sweep varies; none outside of a sweep."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return {}
    searched = [f"{key}={values}" for key, values in (hydra.sweeper.get("params") or {}).items()]
    words = [word for word in sys.argv[1:] if "=" in word.lstrip("-")]
    return job_values(swept_keys([*words, *searched]), hydra.overrides.task)


def swept_keys(words: Iterable[str]) -> set[str]:
    """List the keys that a command line gives several values."""
    parsed = OverridesParser.create().parse_overrides([word for word in words if not word.startswith("-")])
    return {one.get_key_element().lstrip("+~") for one in parsed if one.is_sweep_override()}


def job_values(keys: Iterable[str], overrides: Iterable[str]) -> dict[str, str]:
    """Read key and value of those overrides of a job that set one of the keys."""
    known, found = set(keys), (word.lstrip("+").partition("=") for word in overrides)
    return {key: value for key, _, value in found if key in known}


def swept_name(settings: Mapping[str, str]) -> str:
    """Name a folder by settings: `seed=1-lr=0.01`, "" where there are none.

    A key is named by its last part where that tells it apart; of a path its last part is named.
    """
    short = Counter(key.rpartition(".")[2] for key in settings)
    parts = []
    for key, value in settings.items():
        last = key.rpartition(".")[2]
        shown = Path(value.strip("'\"")).name if "/" in value else value.strip("'\"")
        plain = re.sub(r"[^\w.+-]+", "_", shown).strip("_")
        parts.append(f"{last if short[last] == 1 else key}={plain}")
    return "-".join(parts)[:LONGEST_NAME]
