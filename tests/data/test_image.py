"""Every way to open a picture: upright, eight bits, and one sentence for what cannot be shown."""

import io
import json
import os
import re
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import learnpruner
from learnpruner.benchmarks.rows import decode_cell as cell_of_a_benchmark
from learnpruner.benchmarks.video import read_frames
from learnpruner.data.conversation_records import decode_image as cell_of_a_record
from learnpruner.data.image import MAX_ASPECT_RATIO, UnreadableImage, open_image
from learnpruner.data.llava_json import LlavaJson
from learnpruner.evaluation.demo import read_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
CORNERS = np.zeros((6, 9, 3), np.uint8)
CORNERS[0, 0], CORNERS[-1, 0], CORNERS[0, -1] = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def frames(path):
    (path.parent / "clip").mkdir()
    path.rename(path.parent / "clip" / path.name)
    return read_frames(path.parent / "clip", 1)[0]


DOORS = {
    "a path": open_image,
    "bytes": lambda path: open_image(path.read_bytes()),
    "decoded": lambda path: open_image(Image.open(path)),
    "one's own": read_image,
    "a training record": lambda path: cell_of_a_record(path.name, path.parent),
    "a row of parquet": lambda path: cell_of_a_record({"bytes": path.read_bytes(), "path": None}, path.parent),
    "a benchmark": lambda path: cell_of_a_benchmark(path.name, path.parent),
    "a frame": frames,
}


def saved(folder, pixels, ending="png", **settings):
    path = folder / f"x.{ending}"
    Image.fromarray(pixels).save(path, **settings)
    return path


DEPTHS = {
    "16 bits": ("png", RAMP.astype(np.uint16) * 257),
    "16 bits, TIFF": ("tif", RAMP.astype(np.uint16) * 257),
    "16 bits, PGM": ("pgm", RAMP.astype(np.uint16) * 257),
    "16 bits, JPEG 2000": ("jp2", RAMP.astype(np.uint16) * 257),
    "32 bits in full": ("tif", np.rint(RAMP * ((2**31 - 1) / 255)).astype(np.int32)),
    "16 bits stored in 32": ("tif", RAMP.astype(np.int32) * 257),
    "8 bits stored in 32": ("tif", RAMP.astype(np.int32)),
    "floats to 1": ("tif", RAMP.astype(np.float32) / 255),
    "floats to 255": ("tif", RAMP.astype(np.float32)),
    "floats to 65535": ("tif", RAMP.astype(np.float32) * 257),
    "8 bits": ("png", RAMP),
}


@pytest.mark.parametrize("depth", DEPTHS)
def test_deep_pictures_show_the_same_greys_as_eight_bits_do(tmp_path, depth):
    ending, values = DEPTHS[depth]
    found = open_image(saved(tmp_path, values, ending))
    assert found.mode == "RGB" and np.array_equal(np.asarray(found), np.repeat(RAMP[..., None], 3, 2))


def test_white_may_be_zero(tmp_path):
    values = np.rint(RAMP * (65535 / 255)).astype(np.uint16)
    inverted = saved(tmp_path, 65535 - values, "tif", tiffinfo={262: 0})
    assert np.array_equal(np.asarray(open_image(inverted))[..., 0], RAMP)


@pytest.mark.parametrize("values", [[np.nan, 1], [np.inf, 1], [-50, 200], [0, 1e30]])
def test_values_that_no_picture_has_are_refused(tmp_path, values):
    path = saved(tmp_path, np.array([values], np.float32), "tif")
    with pytest.raises(UnreadableImage, match="it holds values"):
        open_image(path)


ORIENTED = {  # what a camera stores so that viewers show CORNERS
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("orientation", ORIENTED)
def test_photographs_stand_upright_whichever_way_they_come_in(tmp_path, door, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(ORIENTED[orientation](CORNERS))
    assert np.array_equal(np.asarray(DOORS[door](saved(tmp_path, stored, exif=exif))), CORNERS)


@pytest.mark.parametrize("orientation", ORIENTED)
def test_turning_a_picture_twice_is_turning_it_once(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    once = open_image(saved(tmp_path, CORNERS, exif=exif))
    assert np.array_equal(np.asarray(open_image(once)), np.asarray(once))


def test_damaged_exif_data_leave_a_sound_picture(tmp_path):
    path = saved(tmp_path, CORNERS, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x00")
    assert np.array_equal(np.asarray(open_image(path)), CORNERS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_other_colours_become_what_pillow_makes_of_them_without_transparency(mode):
    colours = np.random.default_rng(0).integers(0, 255, (5, 7, 4), dtype=np.uint8)
    picture = Image.fromarray(colours).convert({"CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}.get(mode, "RGBA"))
    if mode == "PA":
        picture = picture.convert("LA")
    picture = picture.convert(mode)
    assert np.array_equal(np.asarray(open_image(picture)), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("door", DOORS)
def test_a_strip_is_refused_before_it_is_decoded(tmp_path, door, monkeypatch):
    path = saved(tmp_path, np.zeros((MAX_ASPECT_RATIO + 1, 1, 3), np.uint8))
    decode = Image.Image.load
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(
        ValueError, match=rf"1 x {MAX_ASPECT_RATIO + 1} pixels; its longer side may be {MAX_ASPECT_RATIO} times"
    ):
        DOORS[door](path)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decode)


def test_the_longest_strip_that_is_taken(tmp_path):
    assert open_image(saved(tmp_path, np.zeros((1, MAX_ASPECT_RATIO, 3), np.uint8))).size == (MAX_ASPECT_RATIO, 1)


def png(width, height, *chunks):
    """A PNG's bytes from its parts, with no or few pixels."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, body in (header, *chunks, (b"IEND", b"")):
        whole += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return whole


NOISE = io.BytesIO()
Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)).save(NOISE, "PNG")
LONG_TEXT = (b"zTXt", b"x\x00\x00" + zlib.compress(b"a" * 70_000_000))
BROKEN = {
    "a bomb": (png(30_000, 30_000, (b"IDAT", b"")), r"pixels|decompression bomb"),
    "a bomb of text": (png(4, 4, LONG_TEXT, (b"IDAT", zlib.compress(b"\x00" * 52))), "too large"),
    "nothing": (b"", "it is empty"),
    "text": (b"no picture at all", "cannot identify image file"),
    "cut short": (NOISE.getvalue()[:3000], "truncated"),
    "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "PostScript"),
}


@pytest.mark.parametrize("door", [door for door in DOORS if door != "decoded"])
@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_picture_is_one_sentence(tmp_path, door, case):
    content, message = BROKEN[case]
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        DOORS[door](tmp_path / "x.png")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("door", ["a path", "one's own", "a training record", "a benchmark"])
@pytest.mark.parametrize("kind", ["named pipe", "folder", "missing"])
def test_what_is_no_file_is_one_sentence_at_once(tmp_path, door, kind):
    path = tmp_path / "x.png"
    if kind == "named pipe":
        os.mkfifo(path)
    if kind == "folder":
        path.mkdir()
    refused = []

    def try_it():
        try:
            DOORS[door](path)
        except ValueError as error:
            refused.append(str(error))

    thread = threading.Thread(target=try_it, daemon=True)
    thread.start()
    thread.join(5)
    expected = {"named pipe": "it is no regular file", "folder": "it is a folder", "missing": "it does not exist"}[kind]
    assert len(refused) == 1 and expected in refused[0]


def test_training_leaves_such_pictures_out_and_lists_them(tmp_path):
    saved(tmp_path, CORNERS)
    (tmp_path / "bomb.png").write_bytes(BROKEN["a bomb"][0])
    said = [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so"}]
    records = [{"id": name, "image": name, "conversations": said} for name in ("x.png", "bomb.png")]
    (tmp_path / "data.json").write_text(json.dumps(records))
    source = LlavaJson(tmp_path / "data.json", skipped=tmp_path / "skipped.jsonl")
    assert {source.sample(i).id for i in range(4)} == {"x.png"}
    assert '"bomb.png"' in (tmp_path / "skipped.jsonl").read_text()


def test_phones_record_videos_on_their_side(tmp_path):
    av = pytest.importorskip("av")
    path, size = tmp_path / "x.mp4", (64, 48)
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32, 0] = 255  # red on the left
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(3):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode(None))
    plain = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 2**30)
    turned = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 2**30)  # shown a quarter turn clockwise
    whole = path.read_bytes()
    at = whole.index(plain, whole.index(b"tkhd"))
    path.write_bytes(whole[:at] + turned + whole[at + len(plain) :])
    frame = np.asarray(read_frames(path, 1)[0])
    assert frame.shape[:2] == (64, 48)
    assert frame[:24, :, 0].mean() > 200 and frame[40:, :, 0].mean() < 60  # red at the top


def test_bytes_come_from_anywhere():
    buffer = io.BytesIO()
    Image.fromarray(CORNERS).save(buffer, "WEBP", lossless=True)
    assert np.array_equal(np.asarray(open_image(buffer.getvalue())), CORNERS)


def test_no_other_file_of_the_package_opens_pictures_or_makes_them_rgb():
    package = Path(learnpruner.__file__).parent
    others = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"Image\.open\(|\.convert\(\"RGB\"\)", path.read_text())
    }
    assert others == {"data/image.py", "benchmarks/video.py"}  # the second steps through a GIF's frames


def test_twelve_bits_are_scaled_by_their_own_white(tmp_path):
    """Pillow writes none: two pixels of 12 bits each, 0xFFF and 0x800, in an uncompressed TIFF."""
    fields = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHLHxx", tag, 3, 1, value) for tag, value in fields.items())
    head = struct.pack("<2sHLH", b"II", 42, 8, len(fields)) + entries + bytes(4)
    (tmp_path / "deep.tif").write_bytes(head + bytes(122 - len(head)) + b"\xff\xf8\x00")
    assert [open_image(tmp_path / "deep.tif").getpixel((x, 0))[0] for x in (0, 1)] == [255, 128]
