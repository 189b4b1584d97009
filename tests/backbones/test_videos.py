"""Videos through the families' own processors, which need torchvision; without it they are refused in a sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from families import FAMILIES
from transformers.utils import is_torchvision_available
from video_processors import NAMES, QUESTIONS, clip

from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.prompting import encode_prompts

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", NAMES)
def test_without_torchvision_videos_are_refused_in_a_sentence(name, tmp_path):
    if is_torchvision_available():
        return
    backbone = load_backbone(FAMILIES[name].save(tmp_path))
    with pytest.raises(ValueError, match="Videos need torchvision") as caught:
        encode_prompts(backbone, [clip(0)], QUESTIONS[:1])
    assert "\n" not in str(caught.value)


def test_every_property_holds_through_the_processors():
    """In a process that has torchvision, or its stand-in, from the start: Hugging Face looks for it when it is imported."""
    paths = [os.environ.get("PYTHONPATH", ""), *([] if is_torchvision_available() else [str(HERE.parent / "standins")])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(HERE / "video_processors.py")],
        env={**os.environ, "PYTEST_ADDOPTS": "", "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0 and f"{4 * len(NAMES)} passed" in done.stdout, done.stdout + done.stderr
