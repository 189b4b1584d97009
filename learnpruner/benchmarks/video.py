"""Frames of a video, spread evenly over it: from a folder of pictures, a GIF, or a file that PyAV decodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from learnpruner.data.image import UnreadableImage, open_image
from learnpruner.data.paths import resolve_within
from learnpruner.utils.errors import UserError

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
DEFAULT_FRAME_RATE = 24.0  # frames a second where nothing says it, as transformers assumes


class VideoClip(list[Image.Image]):
    """Frames taken from a video, in order.

    Args:
        taken: their numbers among the video's `total` frames.
        rate: its frames a second. Models with time in their prompts or positions (Qwen) read them.
    """

    def __init__(
        self, frames: Sequence[Image.Image], taken: Sequence[int], total: int, rate: float = DEFAULT_FRAME_RATE
    ) -> None:
        super().__init__(frames)
        self.metadata = {"total_num_frames": total, "fps": rate, "frames_indices": list(taken)}


def video_inputs(videos: Sequence[list[Image.Image]]) -> dict[str, Any]:
    """A processor's arguments for videos whose frames are chosen: all of them are shown."""
    known = [video.metadata for video in videos if isinstance(video, VideoClip)]
    when = {"video_metadata": known} if len(known) == len(videos) else {}
    return {"videos": list(videos), "do_sample_frames": False, **when}


def find_video(folder: Path, name: str, outside: bool = False) -> Path:
    """Find the file or folder of frames that a name without ending stands for.

    Args:
        folder: of the videos.
        name: of the video.
        outside: whether it may lead out of `folder`.

    Raises:
        UserError: where there is none.
    """
    try:
        for ending in ("", *VIDEO_SUFFIXES):
            if (path := resolve_within(folder, f"{name}{ending}", outside)).exists():
                return path
    except UnreadableImage as error:
        raise UserError(f"The video {error}.") from None
    raise UserError(
        f"No video {name!r} in {folder}: expected a folder of frames, or {name} with one of {', '.join(VIDEO_SUFFIXES)}."
    )


def uniform_frame_indices(total: int, count: int) -> list[int]:
    """`count` indices from the first to the last of `total` frames, rounded down; short videos repeat frames."""
    return np.linspace(0, total - 1, count, dtype=int).tolist()


def read_frames(path: Path, count: int) -> VideoClip:
    """`count` RGB frames in order."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in FRAME_SUFFIXES)
        if not files:
            raise UserError(f"{path} holds no frames; it must hold pictures that end in {', '.join(FRAME_SUFFIXES)}.")
        taken = uniform_frame_indices(len(files), count)
        return VideoClip([_frame(files[i]) for i in taken], taken, len(files))
    if path.exists() and not path.is_file():
        raise UserError(f"{path} cannot be read as a video: it is no regular file.")
    return decode_gif(path, count) if path.suffix.lower() == ".gif" else decode_video(path, count)


def _frame(file: Path) -> Image.Image:
    try:
        return open_image(file)
    except UnreadableImage as error:
        raise UserError(f"The frame {file} cannot be read: {error}.") from None


def decode_gif(path: Path, count: int) -> VideoClip:
    """Frames of a GIF, which says how many milliseconds each is shown."""
    try:
        with Image.open(path) as gif:
            shown = [frame.info.get("duration", 0) for frame in ImageSequence.Iterator(gif)]
            taken, found = uniform_frame_indices(len(shown), count), {}
            for i in sorted(set(taken)):
                gif.seek(i)
                found[i] = open_image(gif.copy())
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a video: {error}.") from None
    rate = 1000 * len(shown) / sum(shown) if sum(shown) else DEFAULT_FRAME_RATE
    return VideoClip([found[i] for i in taken], taken, len(shown), rate)


def rotate_upright(frame: Any) -> Image.Image:
    """A frame of PyAV, turned as the file says: phones record on their side."""
    image: Image.Image = frame.to_image()
    return image.rotate(90 * round(getattr(frame, "rotation", 0) / 90), expand=True)


def decode_video(path: Path, count: int) -> VideoClip:
    """Frames of a video file; it is read once more where its header gives no number of frames, or too high a one."""
    try:
        import av
    except ImportError:
        raise UserError(f"{path} cannot be read: install PyAV (pip install av), or extract its frames.") from None
    try:
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            total, rate = stream.frames, float(stream.average_rate or DEFAULT_FRAME_RATE)
            while True:
                taken, found, seen = uniform_frame_indices(total, count) if total else [], {}, 0
                file.seek(0)
                for seen, frame in enumerate(file.decode(stream), 1):
                    if seen - 1 in taken:
                        found[seen - 1] = rotate_upright(frame)
                    if taken and seen > taken[-1]:
                        return VideoClip([found[i] for i in taken], taken, total, rate)
                if not seen:
                    raise UserError(f"{path} holds no frames.")
                total = seen
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"{path} cannot be read as a video: {error}.") from None
