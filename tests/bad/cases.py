"""All cases, by kind."""

from __future__ import annotations

from bad import (
    backbones,
    checkpoints,
    exports,
    kills,
    losses,
    pictures,
    questions,
    records,
    settings,
    signals,
    together,
)
from bad.case import Case

PARTS = (settings, exports, backbones, checkpoints, pictures, questions, records, kills, signals, losses, together)


def all_of_them() -> list[Case]:
    return [case for part in PARTS for case in part.cases()]
