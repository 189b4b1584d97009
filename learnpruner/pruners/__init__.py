"""Pruning methods, one a file; `_target_` in conf/pruner/*.yaml is the only place that names them."""
