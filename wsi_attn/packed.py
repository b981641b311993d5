"""`Packed`: many byte strings in one buffer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class Packed(Sequence[memoryview]):
    """Byte strings one after another in one buffer, without a Python object for each; a slice shares the buffer.

    Attributes
    ----------
    starts, ends
        int64 (N,): position of each in the buffer.
    """

    def __init__(self, buffer: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        self.starts, self.ends = starts, ends
        self._buffer, self._view = buffer, buffer.data

    @classmethod
    def of(cls, parts: Sequence[bytes | memoryview]) -> Packed:
        """Pack byte strings, which are copied if they are not packed already."""
        if isinstance(parts, cls):
            return parts
        ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
        return cls(np.frombuffer(b"".join(parts), np.uint8), np.append(0, ends[:-1])[: len(ends)], ends)

    @property
    def view(self) -> memoryview:
        """`data` as bytes."""
        return self.data.data

    @property
    def data(self) -> NDArray[np.uint8]:
        """uint8 (bytes,): all of them."""
        return self._buffer[self.starts[0] : self.ends[-1]] if len(self) else self._buffer[:0]

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> memoryview: ...
    @overload
    def __getitem__(self, index: slice) -> Packed: ...
    def __getitem__(self, index: int | slice) -> memoryview | Packed:
        if isinstance(index, slice):
            return Packed(self._buffer, self.starts[index], self.ends[index])
        return self._view[self.starts[index] : self.ends[index]]

    def __iter__(self) -> Iterator[memoryview]:
        view = self._view
        return (view[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True))

    def begin_with(self, prefix: bytes) -> NDArray[np.bool_]:
        """Which of them begin with these bytes, bool (N,)."""
        view, length = self._view, len(prefix)
        found = (view[start : start + length] == prefix for start in self.starts.tolist())
        return np.fromiter(found, np.bool_, len(self)) & (self.ends - self.starts >= length)
