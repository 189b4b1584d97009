"""Benchmarks, one a file: a dataset, a prompt and a scoring rule. The folder conf/benchmark names them."""
