"""Paths that data name: they stay in the folder that they start from."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from learnpruner.data.image import UnreadableImage


def resolve_within(folder: Path, name: str, outside: bool = False) -> Path:
    """Resolve ``name`` from ``folder``, as data give it.

    Args:
        folder: of the data.
        name: a path, as the data have it.
        outside: whether it may lead out of the folder, by ``..``, as an absolute path or through a link.

    Raises:
        UnreadableImage: where it leads outside and may not, or is no path at all.
    """
    path = folder / name
    if outside:
        return path
    try:
        parent = _resolved(path.parent)
        real = path.resolve() if path.name in ("", "..") or path.is_symlink() else parent / path.name
        if real.is_relative_to(_resolved(folder)):
            return path
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a null byte, a circle of links
        raise UnreadableImage(f"{name[:200]!r} is no path: {error}") from None
    raise UnreadableImage(f"{name!r} leads out of {folder}; move it there, or allow it by outside=true")


@lru_cache(maxsize=4096)
def _resolved(folder: Path) -> Path:
    """Without links; many pictures share a folder."""
    return folder.resolve()
