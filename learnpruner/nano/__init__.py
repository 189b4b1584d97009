"""The embedded backbone: a small LLaVA trained from nothing on procedural scenes. Run ``python -m learnpruner.nano.pretrain``."""
