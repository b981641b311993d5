"""A thread-safe least-recently-used cache of bounded size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import cachetools

Value = TypeVar("Value")


class LruCache(Generic[Value]):
    """`cachetools.LRUCache` behind a lock.

    Parameters
    ----------
    capacity
        Upper bound on the sum of the sizes of all values. A larger value is not stored.
    size_of
        Size of a value; by default the bytes of a buffer, such as `bytes` or an array.
    """

    def __init__(self, capacity: int, size_of: Callable[[Value], int] | None = None) -> None:
        self.capacity = capacity
        self._values: cachetools.LRUCache[Hashable, Value] = cachetools.LRUCache(
            capacity, getsizeof=size_of or _bytes_of
        )
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value, which callers must not modify, or None."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        """Store a value, replacing the previous one of the key."""
        with self._lock:
            try:
                self._values[key] = value
            except ValueError:  # larger than the cache
                return

    def clear(self) -> None:
        """Remove all values."""
        with self._lock:
            self._values.clear()


def _bytes_of(value: object) -> int:
    return memoryview(value).nbytes  # type: ignore[arg-type]
