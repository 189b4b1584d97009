"""LearnPruner: keep few visual tokens of a vision-language model, with a learned pruner on unmodified HF models."""

from learnpruner.plan import Plan, Stage, load
from learnpruner.pruner import Pruner, ScorePruner, Signal, View
from learnpruner.selection import Selection

__all__ = ["Plan", "Pruner", "ScorePruner", "Selection", "Signal", "Stage", "View", "load"]
