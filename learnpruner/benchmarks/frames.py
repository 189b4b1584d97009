"""Frames of a video, spread evenly over it: from a folder of pictures, a GIF, or a file that an installed reader decodes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence
from transformers.video_utils import VideoMetadata, load_video

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
READERS = {"av": "pyav", "torchcodec": "torchcodec", "torchvision": "torchvision", "decord": "decord", "cv2": "opencv"}


def find_video(folder: Path, name: str) -> Path:
    """The file or folder of frames that a name without ending stands for."""
    for path in (folder / name, *(folder / f"{name}{ending}" for ending in VIDEOS)):
        if path.exists():
            return path
    raise ValueError(
        f"No video {name!r} in {folder}: expected a folder of frames, or {name} with one of {', '.join(VIDEOS)}."
    )


def spread(total: int, count: int) -> list[int]:
    """`count` indices from the first to the last of `total` frames, rounded down; short videos repeat frames."""
    return np.linspace(0, total - 1, count, dtype=int).tolist()


def read_frames(path: Path, count: int) -> list[Image.Image]:
    """`count` RGB frames in order."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
        if not files:
            raise ValueError(f"{path} holds no frames; it must hold pictures that end in {', '.join(PICTURES)}.")
        return [Image.open(files[i]).convert("RGB") for i in spread(len(files), count)]
    if path.suffix.lower() == ".gif":
        with Image.open(path) as gif:
            frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(gif)]
        return [frames[i] for i in spread(len(frames), count)]
    return decoded(path, count)


def decoded(path: Path, count: int) -> list[Image.Image]:
    """Frames of a video file by the first reader that is installed."""
    reader = next((READERS[module] for module in READERS if importlib.util.find_spec(module)), None)
    if reader is None:
        raise ValueError(
            f"{path} cannot be read: install one of {', '.join(READERS)} (pip install av), or extract frames."
        )

    def indices(metadata: VideoMetadata, **_: object) -> list[int]:
        return spread(metadata.total_num_frames, count)

    video: Any = str(path)
    pixels, _ = load_video(video, backend=reader, sample_indices_fn=indices)
    return [Image.fromarray(np.asarray(frame)) for frame in pixels]
