"""Model families: one file each, named after the Hugging Face model type; the folder is the registry."""

from learnpruner.backbones.loading import Backbone, adapter, load_backbone

__all__ = ["Backbone", "adapter", "load_backbone"]
