"""Where the project lies: its configs and shipped checkpoints are found from any working directory."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
