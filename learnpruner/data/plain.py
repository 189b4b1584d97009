"""What people and data say is text: a ``</s>`` or ``<image>`` in a question or an answer is never taken for the token.

Tokenizers look for special tokens in the whole of a rendered prompt and cannot tell the template's from those that were
typed. Typed ones are therefore held apart by marks while the template, and the processor's search for the image's place, run
over the text. For tokenization they are put back, and the template's own become aliases: added tokens that cut the text in
the same places and stand for the same ids.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from transformers import AddedToken

_TYPED, _OWN = (
    0xF0000,
    0xF8000,
)  # signs of Unicode's last planes, which no text holds: one a special token, as often as it is long
_RESERVED = re.compile("[\U000f0000-\U000fffff]")
_MARKS = re.compile("[\U000f0000-\U000f7fff]+")
_PROCESSORS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


class ProtectedTokenizer:
    """A fast tokenizer for prompts whose typed parts have passed `protect`. Where these hold no special token it is the same.

    Offsets count the characters of the protected text, which is as long as the typed one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.kinds = {one.content: one for one in tokenizer.added_tokens_decoder.values() if one.special}
        self.specials = sorted(self.kinds, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, self.specials)) or r"(?!)")
        self._made: tuple[Any, dict[int, int]] | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer":  # before __init__: while it is copied
            raise AttributeError(name)
        return getattr(self.tokenizer, name)

    def protect(self, text: str) -> str:
        """Mark special tokens in a typed text by others of the same length."""
        return self.pattern.sub(lambda found: self._signs(_TYPED, found[0]), _RESERVED.sub("", text))

    def __call__(self, texts: str | Sequence[str], **settings: Any) -> Any:
        whole = [texts] if isinstance(texts, str) else texts
        if not any(_MARKS.search(text) for text in whole):
            return self.tokenizer(texts, **settings)
        rendered = [_MARKS.sub(self._typed, self.pattern.sub(self._own, text)) for text in whole]
        tokenizer, ids = self._aliased()
        asked = {**settings, "split_special_tokens": True, "return_special_tokens_mask": True}
        encoded = tokenizer(rendered[0] if isinstance(texts, str) else rendered, **asked)
        found, added = encoded["input_ids"], encoded["special_tokens_mask"]
        if not settings.get("return_special_tokens_mask"):
            del encoded["special_tokens_mask"]
        encoded["input_ids"] = self._meant(found, added, ids)
        return encoded

    def _meant(self, found: Any, added: Any, ids: Mapping[int, int]) -> Any:
        """Put the aliases' token ids back.

        Args:
            found: ids of a text, of rows of them, or a tensor.
            added: what the tokenizer put around the text itself.
            ids: alias -> the token that it stands for.
        """
        if hasattr(found, "tolist"):
            return found.new_tensor(self._meant(found.tolist(), added.tolist(), ids))
        if found and isinstance(found[0], list):
            return [self._meant(row, around, ids) for row, around in zip(found, added, strict=True)]
        unknown, special = self.tokenizer.unk_token_id, set(ids.values())  # a word list holds special tokens as words
        return [
            ids.get(one, unknown if one in special and not around else one)
            for one, around in zip(found, added, strict=True)
        ]

    def _signs(self, first: int, special: str) -> str:
        return chr(first + self.specials.index(special)) * len(special)

    def _own(self, found: re.Match[str]) -> str:
        return self._signs(_OWN, found[0])

    def _typed(self, found: re.Match[str]) -> str:
        text = ""
        while len(text) < len(found[0]):
            text += self.specials[ord(found[0][len(text)]) - _TYPED]
        return text

    def _aliased(self) -> tuple[Any, dict[int, int]]:
        """The tokenizer with an alias for each special token, and what the aliases' ids stand for."""
        if self._made is None:
            tokenizer = copy.deepcopy(self.tokenizer)
            aliases = [self._signs(_OWN, one) for one in self.specials]
            kinds = zip(aliases, (self.kinds[one] for one in self.specials), strict=True)
            tokenizer.add_tokens([_alias(alias, kind) for alias, kind in kinds])
            new, old = tokenizer.convert_tokens_to_ids(aliases), self.tokenizer.convert_tokens_to_ids(self.specials)
            self._made = tokenizer, dict(zip(new, old, strict=True))
        return self._made


def _alias(name: str, kind: AddedToken) -> AddedToken:
    """A token that cuts the text as `kind` does."""
    cuts = {"single_word": kind.single_word, "lstrip": kind.lstrip, "rstrip": kind.rstrip}
    return AddedToken(name, **cuts, normalized=False, special=False)


def protect_special_tokens(processor: Any) -> Any:
    """Copy a processor with a `ProtectedTokenizer` in the place of its tokenizer."""
    if isinstance(processor.tokenizer, ProtectedTokenizer):
        return processor
    if processor not in _PROCESSORS:
        _PROCESSORS[processor] = copy.copy(processor)
        _PROCESSORS[processor].tokenizer = ProtectedTokenizer(processor.tokenizer)
    return _PROCESSORS[processor]
