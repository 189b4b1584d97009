"""Model families: one file each, named after the Hugging Face model type; the folder is the registry."""

from learnpruner.backbones.base import Backbone, adapter, load_backbone
from learnpruner.backbones.share import shared_vision

__all__ = ["Backbone", "adapter", "load_backbone", "shared_vision"]
