"""Every picture of the project comes in here: looked at before it is decoded, then decoded, turned upright and made RGB."""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from learnpruner.utils.errors import UserError

MAX_PIXELS = 178_956_970  # where Pillow, too, takes a picture for a decompression bomb
MAX_ASPECT_RATIO = (
    200  # times the shorter side; processors scale the shorter one up to hundreds of pixels, and Qwen's refuse more
)
_WHITES = (2**8 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)  # of integers and floats that do not say theirs
_OVERSHOOT = 2.0  # up to which floats are taken to have white at 1: resampling leaves some above it


class UnreadableImage(UserError):
    """A picture that cannot be used. The message says why, to stand behind the picture's name."""


def open_image(source: Image.Image | Path | str | bytes) -> Image.Image:
    """Open the first frame of a file, encoded bytes or a decoded picture: upright as its EXIF data say, and RGB.

    Transparency is dropped, as LLaVA's code and Hugging Face's processors do. More than 8 bits are scaled down to 8.

    Args:
        source: a path, encoded bytes, or a picture.

    Raises:
        UnreadableImage: for whatever is no such picture, too large, or longer than LONGEST times its width.
    """
    if isinstance(source, Image.Image):
        return _upright_rgb(source)
    try:
        with Image.open(_opened(source)) as image:
            return _upright_rgb(image)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:  # of bytes that are no picture Pillow's decoders raise errors of many kinds
        raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from None


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any depth to RGB of 8 bits."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _eight_bits(image).convert("RGB")
    try:
        return image.convert("RGB")
    except ValueError:
        raise UnreadableImage(f"its colours are stored as {image.mode}; save it as RGB") from None


def _opened(source: Path | str | bytes) -> io.BytesIO | Path:
    """What Pillow may open: nothing that waits for ever, such as a named pipe."""
    if isinstance(source, bytes):
        if not source:
            raise UnreadableImage("it is empty")
        return io.BytesIO(source)
    path = Path(source)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UnreadableImage("it does not exist") from None
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImage("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
    if not status.st_size:
        raise UnreadableImage("it is empty")
    return path


def _upright_rgb(image: Image.Image) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"it has {width} x {height} pixels, more than {MAX_PIXELS:,}; scale it down")
    if min(width, height) < 1 or max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UnreadableImage(
            f"it has {width} x {height} pixels; its longer side may be {MAX_ASPECT_RATIO} times the shorter one: cut it"
        )
    if image.format == "EPS":
        raise UnreadableImage("it is a PostScript program, which is not run; save it as PNG")
    image.load()
    rgb = as_rgb(image)
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged block beside a sound picture: Pillow raises errors of many kinds
        return rgb
    if orientation not in range(2, 9):
        return rgb
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb.info = {"exif": exif.tobytes()}  # nothing else that could be damaged
    return ImageOps.exif_transpose(rgb)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Integers of 16 or 32 bits, or floats, as grey values of 8 bits."""
    tags: Any = getattr(image, "tag_v2", {})  # of TIFF: bits 258, white is zero 262, signed 339
    values: NDArray[Any] = np.asarray(image)
    if image.mode == "I" and tags and tags.get(339, (1,))[0] == 1:
        values = values.view(np.uint32)
    if not np.isfinite(values).all():
        raise UnreadableImage("it holds values that are not finite")
    white = _white(image, tags.get(258, (0,))[0], values)
    if values.min() < -0.05 * white:
        raise UnreadableImage(f"it holds values below 0, down to {values.min():g}; save it with values from 0 to 255")
    scaled = np.rint(values * (255 / white)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - scaled if tags.get(262) == 0 else scaled)


def _white(image: Image.Image, bits: int, values: NDArray[Any]) -> float:
    """The value of white: what the format says, else the lowest usual one that no value exceeds."""
    if image.mode.startswith("I;"):
        return 2**12 - 1 if bits == 12 else 2**16 - 1
    if image.mode == "I" and (image.format == "PPM" or bits == 16):
        return 2**16 - 1 if image.format == "PPM" else 2**15 - 1
    most = float(values.max())
    if image.mode == "F" and most <= _OVERSHOOT:
        return 1
    for white in _WHITES:
        if most <= white:
            return white
    raise UnreadableImage(f"it holds values up to {most:g}; save it with values from 0 to 255")
