"""Thread-safe reading of bytes of a file, and of many ranges with few reads into one buffer."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import SlideReadError
from wsi_attn.packed import Packed

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


_SEEKING = threading.Lock()


def _pread(handle: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, length, offset)
    with _SEEKING:  # Windows moves the file position: one thread at a time
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, length)
