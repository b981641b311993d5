"""Thread-safe reading of bytes of a file, and of many ranges with few reads."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Self

from wsi_attn.errors import SlideReadError

GAP_BYTES = 1 << 16
"""Gap between two ranges up to which reading through is cheaper than skipping."""

READ_BYTES = 1 << 24
"""Maximum size of one read; the returned ranges keep it in memory while they are in use."""


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
        if self._fd < 0:
            raise SlideReadError(f"{self.path} is closed")
        try:
            data = _pread(self._fd, length, offset)
            while len(data) < length:  # a read may return fewer bytes after a signal or on some network file systems
                more = _pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    raise SlideReadError(f"{self.path}: bytes {offset} to {offset + length} lie beyond its end")
                data += more
        except (OSError, OverflowError) as error:
            if isinstance(error, SlideReadError):
                raise
            raise SlideReadError(f"{self.path}: bytes {offset} to {offset + length}: {error}") from error
        return data

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


def read_ranges(
    read: Callable[[int, int], bytes], ranges: Iterable[tuple[int, int, int]]
) -> Iterator[tuple[int, memoryview]]:
    """Read ranges of a file, neighbouring ones together.

    Parameters
    ----------
    read
        Function that returns bytes, given offset and length.
    ranges
        Key, offset and length of each.

    Yields
    ------
    Key and bytes of each, by increasing offset.
    """
    ordered = sorted(ranges, key=itemgetter(1))
    first = 0
    while first < len(ordered):
        _, begin, length = ordered[first]
        end, last = begin + length, first + 1
        while last < len(ordered):
            _, offset, length = ordered[last]
            if offset - end > GAP_BYTES or offset + length - begin > READ_BYTES:
                break
            end, last = max(end, offset + length), last + 1
        data = memoryview(read(begin, end - begin))
        for key, offset, length in ordered[first:last]:
            yield key, data[offset - begin : offset - begin + length]
        first = last


_SEEKING = threading.Lock()


def _pread(handle: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(handle, length, offset)
    with _SEEKING:  # Windows moves the file position: one thread at a time
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, length)
