"""LearnPruner: keep few visual tokens of a vision-language model, with a learned pruner on unmodified HF models.

What is listed here is imported when it is first asked for: programs that refuse a setting load no heavy library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnpruner.backbones.registry import register_family
    from learnpruner.core.pruner import Pruner, ScorePruner
    from learnpruner.core.selection import Selection
    from learnpruner.core.signals import Signal, View
    from learnpruner.plan import Plan, Stage, load

__all__ = ["Plan", "Pruner", "ScorePruner", "Selection", "Signal", "Stage", "View", "load", "register_family"]

_HOMES = {
    "Pruner": "learnpruner.core.pruner",
    "ScorePruner": "learnpruner.core.pruner",
    "Signal": "learnpruner.core.signals",
    "View": "learnpruner.core.signals",
    "Selection": "learnpruner.core.selection",
    "Plan": "learnpruner.plan",
    "Stage": "learnpruner.plan",
    "load": "learnpruner.plan",
    "register_family": "learnpruner.backbones.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
