"""Stands in for torchvision in a process of its own, where it is missing: the few functions, on tensors, that the video
processors of Hugging Face call, so that these run on any machine; the wheels of torchvision fit one build of torch each.
On uint8 and float tensors they equal those of torchvision 0.28 bit for bit."""

__version__ = "0.28.0"
