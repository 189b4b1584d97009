"""All cases, by kind."""

from __future__ import annotations

from bad import backbones, checkpoints, exports, pictures, questions, settings
from bad.case import Case

PARTS = (settings, exports, backbones, checkpoints, pictures, questions)


def all_of_them() -> list[Case]:
    return [case for part in PARTS for case in part.cases()]
