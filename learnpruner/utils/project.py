"""Where the project lies: its configs and shipped checkpoints are found from any working directory."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
SHIPPED = "checkpoints"  # the folder of shipped models and exports, and of published ones below the working folder


def find_checkpoint(path: str | Path) -> Path:
    """Resolve `checkpoints/...`: below the working folder where it is there, otherwise below the project's root.

    Every other path, and a name that is in neither place, is returned as it is.
    """
    given = Path(path)
    shipped = ROOT / given
    return shipped if is_checkpoint_name(given) and not given.exists() and shipped.exists() else given


def is_checkpoint_name(path: str | Path) -> bool:
    """Tell whether a name is meant for a folder of checkpoints here, although a Hub id could be written so."""
    return Path(path).parts[:1] == (SHIPPED,)
