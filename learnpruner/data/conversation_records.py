"""What a training record says and shows, whatever its shape.

Two shapes are known: LLaVA-Instruct, ``{"image", "conversations": [{"from": "human" | "gpt", "value"}]}``, and chat messages,
``{"images", "messages": [{"role": "user" | "assistant", "content": [{"type", "text"}]}]}``. Every question with the answer that
follows becomes one turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from learnpruner.data.image import UnreadableImage, open_image
from learnpruner.data.paths import resolve_within
from learnpruner.utils.errors import UserError

CONVERSATION_COLUMNS = ("conversations", "messages")  # columns that hold the conversation
IMAGE_COLUMNS = ("image", "images")  # columns that hold the picture
_USER_ROLES, _ASSISTANT_ROLES = {"human", "user"}, {"gpt", "assistant"}

Turns = list[tuple[str, str]]


def turns_of(record: Any) -> Turns | None:
    """Read the (question, answer) pairs of a record, or None where there is none."""
    try:
        said = [_said(turn) for turn in next(record[name] for name in CONVERSATION_COLUMNS if record.get(name))]
    except (StopIteration, TypeError, KeyError, AttributeError, UnicodeEncodeError):
        return None
    pairs = [
        (asked[1], told[1]) for asked, told in pairwise(said) if asked[0] in _USER_ROLES and told[0] in _ASSISTANT_ROLES
    ]
    return [(question, answer) for question, answer in pairs if question and answer] or None


def _said(turn: Mapping[str, Any]) -> tuple[str, str]:
    """Who speaks, and the text without the image's place."""
    who, text = (turn["from"], turn["value"]) if "from" in turn else (turn["role"], turn["content"])
    if not isinstance(text, str):
        text = "\n".join(part["text"] for part in text if part["type"] == "text")
    if not (isinstance(who, str) and isinstance(text, str)):
        raise TypeError
    text.encode()  # JSON can hold halves of characters, which no tokenizer takes
    return who, text.replace("<image>", "").strip()


def image_of(record: Mapping[str, Any]) -> Any:
    """Find the cell that holds the record's one image; None where there is none, or several."""
    cell = next((record[name] for name in IMAGE_COLUMNS if record.get(name)), None)
    if isinstance(cell, list):
        cell = cell[0] if len(cell) == 1 else None
    if isinstance(cell, dict) and not (cell.get("bytes") or cell.get("path")):
        return None
    return cell or None


def decode_image(cell: Any, folder: Path, outside: bool = False) -> Image.Image:
    """Decode a cell to a picture.

    Args:
        cell: encoded bytes, a path from `folder`, or decoded already.
        folder: where paths start from.
        outside: as of `resolve_within`.

    Raises:
        UnreadableImage: where it holds none that can be used.
    """
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path") or b""
    if isinstance(cell, str):
        return open_image(resolve_within(folder, cell, outside))
    if not isinstance(cell, bytes | Image.Image):
        raise UnreadableImage(f"it is {type(cell).__name__}, neither a picture nor a path to one")
    return open_image(cell)


def longest_turn(turns: Turns) -> int:
    """Count the characters of the longest question with its answer: what a row of the batch is filled up to."""
    return max(len(question) + len(answer) for question, answer in turns)


def split_turns(turns: Turns, questions: int) -> list[Turns]:
    """Split turns into lists of at most so many."""
    return [turns[i : i + questions] for i in range(0, len(turns), questions)]


def text_digest(parts: Sequence[str], seed: int = 0) -> int:
    """Digest texts and a seed to 64 bits that depend on nothing else."""
    return int.from_bytes(
        blake2b("\0".join([str(seed), *parts]).encode(errors="surrogatepass"), digest_size=8).digest(), "big"
    )


def check_data_fraction(fraction: float) -> float:
    """Check a share of the data: above 0, at most 1."""
    if not 0 < fraction <= 1:
        raise UserError(
            f"data.fraction is {fraction}; it is above 0 and at most 1: data.fraction=0.1 takes a tenth of the data."
        )
    return fraction
