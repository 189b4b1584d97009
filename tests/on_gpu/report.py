"""Cases of one check, on disk after each, so that what was found outlives a crash or a time-out."""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Report:
    def __init__(self, path: Path) -> None:
        self.path, self.cases = path, {}

    @contextmanager
    def case(self, name: str) -> Iterator[dict[str, Any]]:
        """Notes what the block puts into the dictionary, and whether it raised; never raises itself."""
        found: dict[str, Any] = {}
        start, failure = time.monotonic(), {}
        self._write(name, {"ok": False, "error": "did not end"})
        try:
            yield found
        except Exception as error:
            failure = {"error": f"{type(error).__name__}: {error}"[:2000], "trace": traceback.format_exc()[-4000:]}
        seconds = round(time.monotonic() - start, 3)
        self._write(name, {"ok": not failure, "seconds": seconds, **plain(found), **failure})

    def _write(self, name: str, case: dict[str, Any]) -> None:
        self.cases[name] = case
        self.path.write_text(json.dumps(self.cases))


def plain(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite as words."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value if isinstance(value, str | int | bool | None) else str(value)


def must(holds: bool, rule: str) -> None:
    """A case fails where its rule does not hold; `python -O` strips no rule."""
    if not holds:
        raise AssertionError(rule)
