"""What the library that checks the schema says, in our words: the value, the rule, the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from learnpruner.config.key_names import all_keys, known_keys

ERROR_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "a mapping of settings",
    "model": "a mapping of settings",
}
RULES = {
    "greater_than_equal": "{ge:g} or more",
    "greater_than": "above {gt:g}",
    "less_than_equal": "{le:g} or less",
    "less_than": "below {lt:g}",
}


def violations(error: ValidationError, schema: type[BaseModel]) -> list[str]:
    """Word a sentence for everything that is wrong."""
    return [_sentence(one, schema) for one in error.errors(include_url=False)]


def no_setting(path: str, known: Iterable[str], everywhere: Iterable[str] = ()) -> str:
    """Say that nothing has this dotted name, and what may have been meant.

    Args:
        path: the name.
        known: the keys that stand where its last part was looked for.
        everywhere: dotted names of all settings; one that ends in just this key is meant more likely than a similar one.
    """
    parent, _, key = path.rpartition(".")
    same = [one for one in everywhere if one.rpartition(".")[2] == key and one != path]
    near = [f"{parent}.{one}" if parent else one for one in difflib.get_close_matches(key, list(known), n=1)]
    hint = " or ".join(same[:2] or near)
    return f"{path} is no setting; {f'did you mean {hint}?' if hint else '--help lists them.'}"


def _sentence(found: Any, schema: type[BaseModel]) -> str:
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    place = tuple(str(part) for part in found["loc"] if not str(part).startswith("<"))  # tags of choices have no key
    path = ".".join(place)
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return f"{path} must be given: {path}=..."
    if kind == "extra_forbidden":
        return no_setting(path, known_keys(schema, place[:-1]), all_keys(schema))
    if kind == "literal_error":
        choices = context["expected"].replace(" or ", ", ").replace("'", "")
        return f"{path} is {value!r}; it must be one of {choices}."
    if kind == "list_type":
        return f"{path} takes a list: {path}=[...]."
    rule = RULES.get(kind, "").format(**context) or ERROR_KINDS.get(kind.split("_")[0])
    return f"{path} is {_shown(value)}; {f'it must be {rule}' if rule else found['msg']}."


def _shown(value: Any) -> str:
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "null"}[value]
    return repr(value)
