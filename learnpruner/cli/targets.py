"""Whether the classes that settings name can be had, and take the arguments that stand beside their names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.utils import get_object

from learnpruner.config.sentences import no_setting
from learnpruner.utils.errors import SettingsError, UserError
from learnpruner.utils.moved_names import canonical_target

OF_HYDRA = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def check_targets(settings: Any, shared: Mapping[str, set[str]]) -> None:
    """Refuse what no class takes; the classes are imported for it.

    Args:
        settings: nested mappings and lists.
        shared: dotted name of a part -> keys in it that are not for its class.
    """
    if found := list(_violations(settings, "", shared)):
        raise SettingsError(*found)


def _violations(node: Any, path: str, shared: Mapping[str, set[str]]) -> Iterator[str]:
    if isinstance(node, Mapping):
        known = _arguments(node, path)
        for key, value in node.items():
            if known is not None and key not in known and key not in shared.get(path, ()):
                yield no_setting(f"{path}.{key}", known)
            else:
                yield from _violations(value, f"{path}.{key}" if path else str(key), shared)
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _violations(value, f"{path}.{number}", shared)


def _arguments(node: Mapping[str, Any], path: str) -> list[str] | None:
    """The keys that a mapping may have; None where it may have any."""
    target = node.get("_target_")
    if target is None:
        return None
    if (now := canonical_target(target)) != target:
        raise UserError(f"{path}._target_ is {target!r}, which is {now} now: name that.")
    try:
        arguments = inspect.signature(get_object(target)).parameters
    except Exception as error:  # whatever importing a module of that name raises
        raise UserError(f"{path}._target_ is {target!r}, which cannot be imported ({error}).") from None
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in arguments.values()):
        return None
    return [*arguments, *OF_HYDRA]
