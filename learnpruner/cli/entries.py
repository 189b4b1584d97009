"""Objects of a mapping of configs, one an entry, as conf/callbacks, conf/logger and conf/loss are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hydra.utils import get_object, instantiate


def make_entries(entries: Mapping[str, Any], **offered: Any) -> dict[str, Any]:
    """Build what each entry names.

    Args:
        entries: configs with a `_target_` by name; those that are null or false are left out.
        offered: facts of the run. One goes to every class that has an argument of its name, where the entry is silent on it.

    Returns:
        The objects by name, in order; a function that returns None makes none.
    """
    made: dict[str, Any] = {}
    for name, entry in entries.items():
        if not entry:
            continue
        known = inspect.signature(get_object(entry["_target_"])).parameters
        facts = {key: value for key, value in offered.items() if key in known and entry.get(key) is None}
        made[name] = instantiate({**entry, "_partial_": True}, _convert_="all")(**facts)  # facts are taken as they are
    return {name: one for name, one in made.items() if one is not None}
