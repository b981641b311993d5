"""A bounded pool of open slides, from which the one that was not used for longest goes first."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """An item of a pool."""

    def close(self) -> None:
        """Release what it holds."""
        ...


Item = TypeVar("Item", bound=Closable)
Result = TypeVar("Result")


class _Slot(Generic[Item]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.item: Item | None = None
        self.users = 0


class Pool(Generic[Item]):
    """Items opened on first use, and closed once `capacity` others were used more recently and nobody uses them.

    Parameters
    ----------
    open_item
        Opens the item of a key; its errors propagate to the caller, and the next caller tries again.
    """

    def __init__(self, open_item: Callable[[str], Item], capacity: int) -> None:
        self.capacity = capacity
        self._open = open_item
        self._lock = threading.Lock()
        self._slots: OrderedDict[str, _Slot[Item]] = OrderedDict()

    @contextmanager
    def use(self, key: str) -> Iterator[Item]:
        """Context manager that keeps the item of a key open."""
        with self._lock:
            slot = self._take(self._slots.setdefault(key, _Slot()), key)
        try:
            if slot.item is None:
                with slot.lock:  # one thread opens, the others wait
                    if slot.item is None:
                        slot.item = self._open(key)
            yield slot.item
        finally:
            self._release(slot)

    @contextmanager
    def use_if_open(self, key: str) -> Iterator[Item | None]:
        """The item of a key if it is already open, otherwise None; never waits for a file."""
        with self._lock:
            slot = self._slots.get(key)
            if slot is None or slot.item is None:
                slot = None
            else:
                self._take(slot, key)
        try:
            yield slot.item if slot else None
        finally:
            if slot:
                self._release(slot)

    def _take(self, slot: _Slot[Item], key: str) -> _Slot[Item]:
        self._slots.move_to_end(key)
        slot.users += 1
        return slot

    def _release(self, slot: _Slot[Item]) -> None:
        with self._lock:
            slot.users -= 1
            retired = self._retire()
        for item in retired:
            item.close()

    def close(self) -> None:
        """Close all unused items; items in use are closed on release."""
        with self._lock:
            self.capacity = 0
            retired = self._retire()
        for item in retired:
            item.close()

    def __len__(self) -> int:
        return sum(slot.item is not None for slot in list(self._slots.values()))

    def _retire(self) -> list[Item]:
        retired = []
        for key, slot in list(self._slots.items()):
            if len(self._slots) <= self.capacity:
                break
            if slot.users == 0:
                del self._slots[key]
                if slot.item is not None:
                    retired.append(slot.item)
        return retired


class Waiting(Generic[Item]):
    """A pool for coroutines, whose items are opened and used in threads.

    However many requests wait for an item that takes long to open, such as a damaged file, they occupy one thread.
    """

    def __init__(self, pool: Pool[Item], threads: ThreadPoolExecutor) -> None:
        self.pool, self.threads = pool, threads
        self._opening: dict[str, asyncio.Lock] = {}

    async def run(self, key: str, work: Callable[[Item], Result]) -> Result:
        """Return what `work` returns for the item of a key."""
        loop = asyncio.get_running_loop()

        def use() -> Result:
            with self.pool.use(key) as item:
                return work(item)

        if not self._is_open(key):
            async with self._opening.setdefault(key, asyncio.Lock()):
                if not self._is_open(key):
                    return await loop.run_in_executor(self.threads, use)
        return await loop.run_in_executor(self.threads, use)

    def _is_open(self, key: str) -> bool:
        with self.pool.use_if_open(key) as item:
            return item is not None
