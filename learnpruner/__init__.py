"""LearnPruner: keep few visual tokens of a vision-language model, with a learned pruner on unmodified HF models."""

from learnpruner.backbones.registry import register_family
from learnpruner.core.pruner import Pruner, ScorePruner
from learnpruner.core.selection import Selection
from learnpruner.core.signals import Signal, View
from learnpruner.plan import Plan, Stage, load

__all__ = ["Plan", "Pruner", "ScorePruner", "Selection", "Signal", "Stage", "View", "load", "register_family"]
