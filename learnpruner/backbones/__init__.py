"""Backbones: model families, one file each, and how models of them are loaded."""

from learnpruner.backbones.family import ModelFamily
from learnpruner.backbones.loading import Backbone, load_backbone
from learnpruner.backbones.registry import family_of, known_families, register_family

__all__ = ["Backbone", "ModelFamily", "family_of", "known_families", "load_backbone", "register_family"]
