"""What a person types after ``question=`` or ``image=`` is text, not Hydra's grammar: read as it stands.

Which settings hold text is read off the schema. ``-m`` still splits at commas, a value wholly in quotes is still Hydra's to
read, and ``null`` is still no value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from learnpruner.config.key_names import free_keys, text_keys
from learnpruner.config.settings import Settings
from learnpruner.utils.errors import UserError

SETTING = re.compile(r"(?P<head>\+{0,2}(?P<key>[^\s=+~@]+)=)(?P<value>.*)", re.DOTALL)
FOLDERS = ("hydra.run.", "hydra.sweep.")
OPENING = ("[", "{", "(")  # of values that are meant as lists and mappings
SWEEPING = ("-m", "--multirun", "hydra.mode=MULTIRUN")


def as_typed(argv: Sequence[str], schema: type[Settings]) -> list[str]:
    """Put text into quotes wherever Hydra would read something else on the command line; schema: of the program's config."""
    text, free = set(text_keys(schema)), (*FOLDERS, *(f"{key}." for key in free_keys(schema)))
    sweep = any(word in SWEEPING for word in argv)
    return [argv[0], *(_as_typed(word, text, free, sweep) for word in argv[1:])]


def literal(value: Any) -> Any:
    """Escape texts, also inside lists and mappings, such that OmegaConf takes no ``${...}`` in them for an interpolation."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", value)
    if isinstance(value, dict):
        return {key: literal(one) for key, one in value.items()}
    return [literal(one) for one in value] if isinstance(value, list | tuple) else value


def _as_typed(word: str, text: set[str], free: tuple[str, ...], sweep: bool) -> str:
    found = SETTING.fullmatch(word)
    if found is None or not (found["key"] in text or found["key"].startswith(free)):
        return word
    try:
        value = found["value"].encode().decode()
    except UnicodeEncodeError:
        raise UserError(f"{word!a} is not UTF-8; type it in UTF-8, or rename the file.") from None
    parsed = _parsed(word)
    if found["key"] not in text:  # of any type: text where it cannot be read as anything else
        return word if parsed is not None or value.startswith(OPENING) else found["head"] + _quoted(value)
    if parsed is not None:
        held: Any = parsed._value  # as typed, unlike `value()`: with its quotes
        if held is None or isinstance(held, QuotedString) or (sweep and parsed.is_sweep_override()):
            return word
        if held == value and "${" not in value:
            return word
    return found["head"] + _quoted(value)


def _parsed(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _quoted(value: str) -> str:
    return QuotedString(literal(value), Quote.single).with_quotes()
