"""Single-writer lock of a store, which the operating system releases when its holder ends for any reason."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsi_attn.errors import StoreLockedError

POLL = 0.02
"""Seconds between two attempts to take a lock."""


@contextmanager
def store_lock(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the exclusive right to write `path`; the lock file lies beside it and is removed at the end.

    Parameters
    ----------
    wait
        Seconds to wait for another holder.

    Raises
    ------
    StoreLockedError : another process, or another thread of this one, holds it.
    """
    give_up = time.monotonic() + wait
    lock = path.with_name(f".{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
        if not _try_lock(handle):
            os.close(handle)
            if time.monotonic() < give_up:
                time.sleep(POLL)
                continue
            raise StoreLockedError(f"Another process is writing {path}; wait for it, or choose another --output")
        # The last holder may have removed the file between opening and locking it.
        if lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
            break
        os.close(handle)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):  # Windows cannot remove an open file; an unlocked one is harmless
            lock.unlink(missing_ok=True)
        os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
