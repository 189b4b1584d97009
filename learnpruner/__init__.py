"""LearnPruner: keep few visual tokens of a vision-language model, with a learned pruner on unmodified HF models.

What is listed here is imported when it is first asked for: programs that refuse a setting load no heavy library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnpruner.core.pruner import Pruner, ScorePruner, Signal, View
    from learnpruner.core.selection import Selection
    from learnpruner.plan import Plan, Stage, load

__all__ = ["Plan", "Pruner", "ScorePruner", "Selection", "Signal", "Stage", "View", "load"]

_HOMES = {
    "Pruner": "learnpruner.core.pruner",
    "ScorePruner": "learnpruner.core.pruner",
    "Signal": "learnpruner.core.pruner",
    "View": "learnpruner.core.pruner",
    "Selection": "learnpruner.core.selection",
    "Plan": "learnpruner.plan",
    "Stage": "learnpruner.plan",
    "load": "learnpruner.plan",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
