"""Progress that tests look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class RecordedItem:
    """One input, and the names of its phases in order."""

    def __init__(self, number: int, count: int, name: str) -> None:
        self.number, self.count, self.name, self.state = number, count, name, "done"
        self.phases: list[str] = []

    def __call__(self, done: int, total: int, what: str) -> None:
        phase = what.partition(":")[0]
        assert 0 <= done <= total
        if self.phases[-1:] != [phase]:
            self.phases.append(phase)


class RecordedProgress(RecordedItem):
    """A batch, and its inputs in order."""

    def __init__(self) -> None:
        super().__init__(0, 0, "")
        self.items: list[RecordedItem] = []

    @contextmanager
    def item(self, number: int, count: int, name: str) -> Iterator[RecordedItem]:
        self.items.append(RecordedItem(number, count, name))
        yield self.items[-1]
