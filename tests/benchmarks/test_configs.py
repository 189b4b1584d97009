"""eval.py with each of the field's benchmarks, from its config, on a local folder of its format."""

import json
import sys

import numpy as np
import pytest
import torch
from families import FAMILIES
from tiny_benchmarks import MAKERS, VIDEOS, video
from transformers.utils import is_torchvision_available

import eval as evaluation
from learnpruner.backbones import processors as processor
from learnpruner.backbones.processors import NoVideoProcessor


class Frames(NoVideoProcessor):
    """Video-LLaVA's frames, 32 x 32 pixels, where torchvision is missing."""

    def __call__(self, videos, do_sample_frames, video_metadata, **_):
        assert not do_sample_frames and [len(video) for video in videos] == [
            len(one["frames_indices"]) for one in video_metadata
        ]
        pixels = [[np.asarray(frame.resize((32, 32)), np.float32) / 255 for frame in video] for video in videos]
        return {"pixel_values_videos": torch.tensor(np.array(pixels)).permute(0, 1, 4, 2, 3)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A stand-in for images and one for videos, and a folder of each benchmark."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("llava", "video_llava"):
        FAMILIES[name].save(folder / name)
    for name in VIDEOS:
        video(folder / "data" / name)
    for name, make in MAKERS.items():
        make(folder / "data" / name)
    return folder


@pytest.mark.parametrize("name", [*MAKERS, *VIDEOS])
def test_a_config_runs_in_eval(name, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    if not is_torchvision_available():
        monkeypatch.setattr(processor, "NoVideoProcessor", Frames)
    model = "video_llava_7b" if name in VIDEOS else "llava15_7b"
    own = f"benchmark.datasets.{name}"
    command = [
        f"benchmark={name}", f"{own}.source=data/{name}", f"{own}.max_new_tokens=2", "benchmark.batch_size=4",
        f"backbone={model}", f"backbone.path={'video_llava' if name in VIDEOS else 'llava'}", "backbone.dtype=float32",
        "pruner=learnpruner", "prune_ratio=0.25", "device=cpu", f"hydra.run.dir={name}",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["eval.py", *command])
    evaluation.main()
    found = json.loads((place / name / "results.json").read_text())
    lines = (place / name / "answers" / "rank0.jsonl").read_text().splitlines()
    assert set(found["scores"]) == {"unpruned", "learnpruner"} and found["samples"] == len(lines) / 2
    assert 0 <= found["scores"]["learnpruner"][name]["score"] <= 2800
    assert "RelAcc" in capsys.readouterr().out
