"""The standard streams of the process: closed, full or broken ones never stop a command."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDIN, STDOUT, STDERR = 0, 1, 2


class _Writer(io.FileIO):
    """A stream that drops everything after the first write that fails; `failure` is its reason."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        """Write bytes, or count them as written."""
        size = memoryview(data).nbytes
        if self.failure is not None:
            return size
        try:
            return super().write(data) or 0
        except OSError as error:
            self.failure = error
            return size


class Streams:
    """Replaces `sys.stdin`, `sys.stdout` and `sys.stderr`.

    stdin and stdout carry file names that are not UTF-8 unchanged. A descriptor that the parent process closed is
    connected to the null device: the next file that is opened would take its number, and messages would be written into
    that file.
    """

    def __init__(self) -> None:
        for descriptor in (STDIN, STDOUT, STDERR):
            try:
                os.fstat(descriptor)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # Takes the lowest free number.
        self._stdout = _Writer(STDOUT, "wb", closefd=False)
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        sys.stdin = open(STDIN, encoding=encoding, errors="surrogateescape", closefd=False)  # noqa: SIM115
        sys.stdout = _text(self._stdout, encoding, "surrogateescape")
        sys.stderr = _text(_Writer(STDERR, "wb", closefd=False), encoding, "backslashreplace")

    def finish(self) -> str | None:
        """Flush both streams; return why results are missing on stdout, None if they are not or the reader left."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # Closed by a library.
                stream.flush()
        failure = self._stdout.failure
        return None if failure is None or failure.errno == errno.EPIPE else failure.strerror or str(failure)


def _text(writer: _Writer, encoding: str, errors: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(writer), encoding, errors, line_buffering=True)
