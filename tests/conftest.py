"""Shared by all tests: one thread, no network, no chatter."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import transformers

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A tiny LLaVA of random weights, whose folder is its own."""
    from learnpruner.backbones import load_backbone
    from tests.tiny_folder import tiny_folder

    return load_backbone(tiny_folder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def batch(backbone):
    """Two scenes with three questions each, as training meets them."""
    from learnpruner.data.collate import Collate
    from learnpruner.data.datamodule import SceneSource, SourceBatches

    return SourceBatches(SceneSource(questions=3), Collate(backbone.processor), images=2)[0]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
