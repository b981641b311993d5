"""Registries of named values: register, list, and look up with similar names in the error."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from wsi_attn.errors import UnknownNameError

T = TypeVar("T")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for an unknown name, with similar names or all available ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return UnknownNameError(f"There is no {kind} named {name!r}; {hint}")


class Registry(Generic[T]):
    """Named values of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._values: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers a value under a name."""

        def decorate(value: T) -> T:
            self._values[name] = value
            return value

        return decorate

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._values)

    def get(self, name: str) -> T:
        """The value of a name; raises `UnknownNameError` with similar names otherwise."""
        if name not in self._values:
            raise unknown_name(self.kind, name, self._values)
        return self._values[name]
