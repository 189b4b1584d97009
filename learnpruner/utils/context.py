"""Values that each thread, or asynchronous task, has for itself."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

_T = TypeVar("_T")


class ContextLocal(Generic[_T]):
    """An attribute that every thread, or task, sets for itself; None where it has not.

    For attributes of few, long-lived objects: setting one copies the values of all.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._values: ContextVar[WeakKeyDictionary[Any, _T | None]] = ContextVar(f"{owner.__name__}.{name}")

    def __get__(self, owner: object, kind: type | None = None) -> _T | None:
        values = self._values.get(None)
        return None if values is None else values.get(owner)

    def __set__(self, owner: object, value: _T | None) -> None:
        values: WeakKeyDictionary[Any, _T | None] = WeakKeyDictionary(self._values.get(None) or {})
        values[owner] = value
        self._values.set(values)
