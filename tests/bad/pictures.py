"""A user's own picture, of every kind that is one, and of many that are none."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from bad.case import Case, Outcome, Play, Stage, carried, refused
from bad.commands import ASK
from bad.process import Ended
from bad.world import grey, picture, pixels

ASKED = [*ASK, "plan=export", "question=what color is it"]
UPRIGHT = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # what undoes the turn of each orientation


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG from its parts."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, body in (header, *chunks, (b"IEND", b"")):
        whole += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return whole


def encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def turned(orientation: int) -> bytes:
    """What a camera stores that was held otherwise: viewers show the picture upright."""
    exif = Image.Exif()
    exif[0x0112] = UPRIGHT[orientation]
    stored = Image.open(io.BytesIO(encoded(picture(), "PNG", exif=exif)))
    exif[0x0112] = orientation
    return encoded(ImageOps.exif_transpose(stored), "PNG", exif=exif)


def deep(scale: float, kind: type, ending: str) -> bytes:
    values = np.asarray(grey()).astype(np.float64) * scale
    return encoded(Image.fromarray(values.astype(kind)), ending)


SAME = {  # pictures that show what picture.png shows: name, bytes
    "a PNG named .jpg": ("x.jpg", lambda: encoded(picture(), "PNG")),
    "a TIFF": ("x.tif", lambda: encoded(picture(), "TIFF")),
    "a BMP": ("x.bmp", lambda: encoded(picture(), "BMP")),
    "a lossless WebP": ("x.webp", lambda: encoded(picture(), "WEBP", lossless=True)),
    "a PNG of two frames": (
        "x.png",
        lambda: encoded(picture(), "PNG", save_all=True, append_images=[ImageOps.invert(picture())]),
    ),
    "with transparency": ("x.png", lambda: encoded(picture().convert("RGBA"), "PNG")),
    "with blanks and brackets in its name": ("my picture (1).png", lambda: encoded(picture(), "PNG")),
    "with commas and quotes in its name": ("a, 'b' = [c].png", lambda: encoded(picture(), "PNG")),
    "with a name that is not ASCII": ("grüße 画.png", lambda: encoded(picture(), "PNG")),
    "with no ending": ("picture", lambda: encoded(picture(), "PNG")),
} | {f"with EXIF orientation {number}": ("x.png", lambda number=number: turned(number)) for number in UPRIGHT}
GREYS = {  # pictures that show what grey.png shows
    "of 16 bits": ("x.png", lambda: deep(257, np.uint16, "PNG")),
    "of 16 bits, TIFF": ("x.tif", lambda: deep(257, np.uint16, "TIFF")),
    "of 32 bits": ("x.tif", lambda: deep((2**31 - 1) / 255, np.int32, "TIFF")),
    "of floats up to 1": ("x.tif", lambda: deep(1 / 255, np.float32, "TIFF")),
    "of floats up to 255": ("x.tif", lambda: deep(1, np.float32, "TIFF")),
}
TEXT = zlib.compress(b"a" * 200_000_000)
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "a text": (lambda path: path.write_text("not a picture"), "cannot be read as a picture"),
    "a folder": (lambda path: path.mkdir(), "it is a folder"),
    "a named pipe": (lambda path: os.mkfifo(path), "no regular file"),
    "cut short": (lambda path: path.write_bytes(encoded(picture(), "PNG")[:90]), "cannot be read as a picture"),
    "a JPEG cut short": (
        lambda path: path.write_bytes(encoded(picture(), "JPEG")[:400]),
        "cannot be read as a picture",
    ),
    "1 x 5,000 pixels": (lambda path: Image.new("RGB", (1, 5000)).save(path), "1 x 5000 pixels"),
    "5,000 x 1 pixels": (lambda path: Image.new("RGB", (5000, 1)).save(path), "5000 x 1 pixels"),
    "a decompression bomb": (lambda path: path.write_bytes(png(40_000, 40_000)), "pixels"),
    "a PNG of 0 x 0": (lambda path: path.write_bytes(png(0, 0)), "cannot be read as a picture"),
    "a PNG with 200 MB of text": (
        lambda path: path.write_bytes(png(9, 9, (b"zTXt", b"k\0\0" + TEXT))),
        "cannot be read as a picture",
    ),
    "a PNG with a wrong checksum": (
        lambda path: path.write_bytes(png(9, 9).replace(b"IHDR\0", b"IHDR\1", 1)),
        "cannot be read as a picture",
    ),
    "PostScript": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "PostScript"),
    "SVG": (lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "cannot be read as a picture"),
    "floats with nan": (
        lambda path: path.write_bytes(encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF")),
        "not finite",
    ),
    "a link to itself": (lambda path: path.symlink_to(path.name), "x.png"),
}


def cases() -> Iterator[Case]:
    for name, (file, make) in SAME.items():
        yield Case("picture", name, shown(file, make), short=name == "with blanks and brackets in its name")
    for name, (file, make) in GREYS.items():
        yield Case("picture", name, alike(file, make))
    for name, (make, words) in REFUSED.items():
        yield Case("picture", f"that is {name}", no_picture(make, words), short=name == "a named pipe")
    yield Case("picture", "with a name of 300 characters", lambda stage: ask(stage, "x" * 300, "xxx"))
    yield Case("picture", "with a null byte in its name", lambda stage: ask(stage, "a\\x00b.png", "a"))
    yield Case("picture", "without a question", lambda stage: without(stage, "image=picture.png"))
    yield Case("picture", "blank", lambda stage: without(stage, "image=", "question=what"))


def shown(file: str, make: Callable[[], bytes]) -> Play:
    """The picture of the tokens, the answers and the question are those of the plain PNG, to the pixel."""

    def same(stage: Stage, ended: Ended) -> Iterable[str]:
        if pixels(stage.folder / "out/tokens.png") != stage.world.shown:
            yield "it is shown otherwise than the plain PNG"

    def play(stage: Stage) -> Outcome:
        (stage.folder / file).write_bytes(make())
        return carried(stage, "eval.py", *ASKED, f"image={file}", check=same)

    return play


def alike(file: str, make: Callable[[], bytes]) -> Play:
    """As grey.png is shown, asked the same."""

    def same(stage: Stage, ended: Ended) -> Iterable[str]:
        settings = [one for one in ASKED if not one.startswith("hydra.run.dir=")]
        twin = stage.run("eval.py", *settings, "image=grey.png", "hydra.run.dir=twin")
        if twin.code != 0 or pixels(stage.folder / "out/tokens.png") != pixels(stage.folder / "twin/tokens.png"):
            yield "it is shown otherwise than in 8 bits"
        answers = [json.loads((stage.folder / one / "results.json").read_text()) for one in ("out", "twin")]
        if answers[0]["pruned"] != answers[1]["pruned"]:
            yield "it is answered otherwise than in 8 bits"

    def play(stage: Stage) -> Outcome:
        (stage.folder / file).write_bytes(make())
        return carried(stage, "eval.py", *ASKED, f"image={file}", check=same)

    return play


def no_picture(make: Callable[[Path], Any], words: str) -> Play:
    def play(stage: Stage) -> Outcome:
        make(stage.folder / "x.png")
        return ask(stage, "x.png", words)

    return play


def ask(stage: Stage, file: str, words: str) -> Outcome:
    return refused(stage, "eval.py", *ASKED, f"image={file}", words=[words])


def without(stage: Stage, *given: str) -> Outcome:
    return refused(stage, "eval.py", *ASK, "plan=export", *given, words=["image=", "question="])
