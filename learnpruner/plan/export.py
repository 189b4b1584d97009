"""The exported folder: config.json, model.safetensors (pruner weights only), README.md (a model card), perhaps adapter/."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from learnpruner.adapters import ADAPTER_FOLDER
from learnpruner.core.pruner import Pruner
from learnpruner.plan.export_schema import ExportedPlan, read_config
from learnpruner.utils.constructor import dotted_name
from learnpruner.utils.errors import UserError
from learnpruner.utils.finite import check_finite, finite_or_none
from learnpruner.utils.io import atomic_write, write_text_atomically
from learnpruner.utils.moved_names import canonical_target
from learnpruner.utils.privacy import hide_path_values, hide_paths
from learnpruner.utils.project import find_checkpoint, is_checkpoint_name
from learnpruner.utils.typed_arguments import check_arguments

_T = TypeVar("_T")
_OWN, _PRUNERS = "learnpruner", "learnpruner.pruners"
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"


def write_export(folder: str | Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], card: str) -> Path:
    """Write a plan's folder; weights are stored on the CPU, one contiguous copy each."""
    folder = Path(folder)
    check_finite(weights, f"{folder / WEIGHTS_FILE} is not written")
    config = hide_path_values({**config, "metrics": finite_or_none(config["metrics"])})
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / WEIGHTS_FILE) as file:
        file.write(save({name: w.detach().cpu().contiguous() for name, w in weights.items()}))
    write_text_atomically(folder / CARD_FILE, hide_paths(card))
    write_text_atomically(
        folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n"
    )  # last: a folder without it is no plan
    return folder


def read_export(source: str | Path, revision: str | None = None) -> tuple[ExportedPlan, dict[str, Tensor]]:
    """Read config and weights of an exported plan: a folder, or a Hub id at a revision.

    Raises:
        UserError: where it is none, or a broken one.
    """
    folder = resolve_export(source, revision)
    return read_config(folder / CONFIG_FILE, ExportedPlan), read_weights(folder / WEIGHTS_FILE)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of safetensors; its numbers must be finite, and of floating point.

    Raises:
        UserError: where they are not, or the file is none.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing or damaged, export it again: it is no file.")
    try:
        weights = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:  # of bytes that are something else
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is missing or damaged, export it again: {reason}.") from None
    other = [f"{name} of {value.dtype}" for name, value in weights.items() if not value.is_floating_point()]
    if other:
        raise UserError(f"{path} is refused: {other[0]} holds no weights, which are floating point.")
    check_finite(weights, f"{path} is refused")
    return weights


def resolve_export(source: str | Path, revision: str | None = None) -> Path:
    """Find the folder itself, or the local snapshot of a Hub repository at a branch, tag or commit.

    Raises:
        UserError: where there is neither.
    """
    folder = find_checkpoint(source)
    if (folder / CONFIG_FILE).is_file():
        return folder
    if is_checkpoint_name(folder) and not folder.exists():
        raise UserError(
            f"No plan at {str(source)!r}, neither below this folder nor below the project's: give the folder of an export."
        )
    looks_local = folder.exists() or (folder.parent.is_dir() and str(folder.parent) != ".")
    if not looks_local and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        try:
            patterns = [CONFIG_FILE, WEIGHTS_FILE, f"{ADAPTER_FOLDER}/*"]
            return Path(snapshot_download(str(source), revision=revision, allow_patterns=patterns))
        except Exception as error:  # the Hub client raises many kinds; each means that the plan is not there
            raise UserError(f"{source!r} is neither a plan's folder nor a reachable Hub id: {error}.") from None
    if folder.is_file():
        raise UserError(f"{source} is a file; a plan is the folder that holds its {CONFIG_FILE} and {WEIGHTS_FILE}.")
    raise UserError(
        f"No plan at {str(source)!r}: expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, or a Hub id."
    )


def describe_pruner(pruner: Pruner) -> dict[str, Any]:
    """Describe a pruner by its `_target_` and arguments, from which `build_pruner` makes the same one."""
    return {"_target_": dotted_name(type(pruner)), **pruner.arguments()}


def build_pruner(spec: Mapping[str, Any], allow: Iterable[str] = ()) -> Pruner:
    """Build a pruner from its description: of this package's pruners, or of a package named in `allow`."""
    return build_exported(spec, Pruner, _PRUNERS, allow)


def build_exported(spec: Mapping[str, Any], base: type[_T], room: str, allow: Iterable[str] = ()) -> _T:
    """Build what a description in an export names. Nothing else is imported: neither other classes nor other modules.

    Args:
        spec: `_target_` and plain arguments.
        base: the class that it must be one of.
        room: the module or package here where these classes are.
        allow: packages beside this one that are trusted.

    Raises:
        UserError: where it names anything else.
    """
    arguments = dict(spec)
    target = canonical_target(str(arguments.pop("_target_", "")))
    what = f"{'an' if base.__name__[0] in 'AEIOU' else 'a'} {base.__name__}"
    module, _, name = target.rpartition(".")
    package = module.partition(".")[0]
    if not (f"{module}.".startswith(f"{room}.") or package in {*allow} - {_OWN}):
        foreign = package.isidentifier() and package != _OWN and package not in sys.stdlib_module_names
        trust = (
            f"; where you trust {package}, load it with allow=({package!r},), or allow=[{package}]" if foreign else ""
        )
        raise UserError(f"The export asks for {target!r}, which is not {what} of {room}{trust}.")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise UserError(f"The export asks for {target!r}, which this installation does not have.") from None
    if not (isinstance(kind, type) and issubclass(kind, base) and kind is not base):
        raise UserError(f"The export asks for {target!r}, which is not {what}.")
    if any(has_target(value) for value in arguments.values()):
        raise UserError(
            f"The export hands {target!r} an object to build; arguments are plain numbers, texts and lists."
        )
    try:
        check_arguments(kind, arguments)
        return kind(**arguments)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # of values that no export has
        raise UserError(f"The export's arguments do not fit {target!r}: {error}.") from None


def has_target(value: Any) -> bool:
    """Tell whether a `_target_` is anywhere inside."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(has_target(part) for part in value.values())
    return isinstance(value, list | tuple) and any(has_target(part) for part in value)


def outside_packages(parts: Iterable[object]) -> tuple[str, ...]:
    """List the packages beside this one that pruners or policies are of: what their export needs to be allowed."""
    return tuple(sorted({type(part).__module__.partition(".")[0] for part in parts} - {_OWN}))
