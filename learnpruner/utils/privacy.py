"""What leaves this machine, in exports, cards, results and W&B, names files without saying where they lie here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_PATH = re.compile(r"file://[^\s'\"`,]+|(?<![\w.:/~-])(?:~/|/|(?:\.\./)+)[^\s'\"`,;:()\[\]{}=|<>]+")

PARTS = re.compile(r"([=,\[\]{}]\s*|:\s+)")  # of a word of a command line


def shown_name(path: str | Path) -> str:
    """Show a path below the working folder, or a hub id, as it is; of any other path the last name."""
    whole = Path(str(path).removeprefix("file://")).expanduser()
    if whole.is_absolute() and whole.is_relative_to(Path.cwd()):
        whole = whole.relative_to(Path.cwd())
    return whole.name if whole.is_absolute() or ".." in whole.parts else str(whole)


def hide_paths(text: str) -> str:
    """Show a text, such as a command line, with the paths in it by name."""
    return _PATH.sub(lambda found: shown_name(found[0]), text)


def command_line(words: Iterable[str]) -> str:
    """Join words of a command line to a text; the paths in each word by name, blanks in them or not."""
    return " ".join("".join(map(_part, PARTS.split(word.replace("file://", "")))) for word in words)


def _part(text: str) -> str:
    bare = text.strip("'\"")
    return text.replace(bare, shown_name(bare)) if is_path(bare) else hide_paths(text)


def hide_path_values(value: Any) -> Any:
    """Copy mappings and lists, each text in which is a path by its name."""
    if isinstance(value, Mapping):
        return {key: hide_path_values(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [hide_path_values(part) for part in value]
    if isinstance(value, str | Path) and is_path(str(value)):
        return shown_name(value)
    return value


def is_path(text: str) -> bool:
    """Tell whether a text is the path of a file that lies elsewhere than below the working folder, or is written so."""
    return "\n" not in text and (text.startswith(("/", "~/", "file://")) or ".." in text.split("/")) and len(text) > 1
