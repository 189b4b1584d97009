"""Applies a plan's decisions to unmodified Hugging Face models. It knows no method and no model family by name."""
