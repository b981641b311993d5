"""Thread-safe reading of bytes of a file, and of many ranges with few reads into one buffer."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import SlideReadError

GAP_BYTES = 1 << 16
"""Gap between two ranges up to which reading through is cheaper than skipping, as on network file systems."""

MOST_BYTES = 1 << 30
"""Maximum size of ranges read together: a damaged file can name the same bytes many times."""


def check_regular(path: Path) -> None:
    """Refuse a pipe or a device, which could be read without end.

    Raises
    ------
    OSError : the path is one of them, a folder, or missing.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def read_regular(path: Path) -> bytes:
    """Content of a regular file; raises like `check_regular`."""
    check_regular(path)
    return path.read_bytes()


class FileBytes:
    """A file read without a file position, so threads share it without a lock.

    Raises
    ------
    OSError : the file cannot be opened, or is not a regular one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1  # for `close` if opening fails
        check_regular(path)
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly these bytes.

        Raises
        ------
        SlideReadError : the bytes do not exist, or the file is closed.
        """
        with self._named(offset, length):
            data = _pread(self._fd, length, offset)
            while len(data) < length:  # a read may return fewer bytes after a signal or on some network file systems
                more = _pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    raise self._beyond_end(offset, length)
                data += more
        return data

    def read_many(self, offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> Packed:
        """Read byte ranges into one buffer, in the given order; neighbouring ones are read at once.

        Parameters
        ----------
        offsets, lengths
            int64 (N,); lengths may be 0.

        Raises
        ------
        SlideReadError : some of the bytes do not exist, they are too many, or the file is closed.
        """
        total = int(lengths.sum())
        if max(total, int(lengths.max(initial=0))) > MOST_BYTES:
            raise SlideReadError(f"{self.path}: {len(lengths)} ranges of {total} bytes together exceed {MOST_BYTES}")
        ends = np.cumsum(lengths)
        packed = Packed(np.empty(total, np.uint8), ends - lengths, ends)
        filled = np.flatnonzero(lengths > 0)
        if not len(filled):
            return packed
        first, last = offsets[filled], offsets[filled] + lengths[filled]
        gaps = first[1:] - last[:-1]
        begin = np.flatnonzero(np.append(True, (gaps < 0) | (gaps > GAP_BYTES)))
        runs = list(zip(begin.tolist(), np.append(begin[1:], len(filled)).tolist(), strict=True))
        for run in sorted(runs, key=lambda run: int(first[run[0]])):
            parts, offset = packed[filled[run[0]] : filled[run[1] - 1] + 1], int(first[run[0]])
            if not gaps[run[0] : run[1] - 1].any():
                self._fill(parts.view, offset)
                continue
            block = self.read(offset, int(last[run[1] - 1]) - offset)
            for number in range(*run):
                packed[filled[number]][:] = block[first[number] - offset : last[number] - offset]
        return packed

    def _fill(self, view: memoryview, offset: int) -> None:
        length = len(view)
        with self._named(offset, length):
            while len(view):
                done = offset + length - len(view)
                if hasattr(os, "preadv"):
                    count = os.preadv(self._fd, [view], done)
                else:
                    data = _pread(self._fd, len(view), done)
                    count = len(data)
                    view[:count] = data
                if not count:
                    raise self._beyond_end(offset, length)
                view = view[count:]

    def _beyond_end(self, offset: int, length: int) -> SlideReadError:
        return SlideReadError(f"{self.path}: bytes {offset} to {offset + length} lie beyond its end")

    @contextmanager
    def _named(self, offset: int, length: int) -> Iterator[None]:
        """Turn errors of the system into `SlideReadError` with the file and the range."""
        if self._fd < 0:
            raise SlideReadError(f"{self.path} is closed")
        try:
            yield
        except (OSError, OverflowError) as error:
            if isinstance(error, SlideReadError):
                raise
            raise SlideReadError(f"{self.path}: bytes {offset} to {offset + length}: {error}") from error

    def close(self) -> None:
        """Release the file; closing twice is fine."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


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


_SEEKING = threading.Lock()


def _pread(handle: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, length, offset)
    with _SEEKING:  # Windows moves the file position: one thread at a time
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, length)
