"""Training data: samples, sources and batches; scenes; public data sets."""
