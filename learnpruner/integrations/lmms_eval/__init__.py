"""A pruned backbone as a model of lmms-eval, which lives in an environment of its own; see docs/lmms_eval.md."""
