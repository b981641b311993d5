"""One writer for each output: a lock that the operating system releases when its holder ends for any reason.

The library `filelock` holds the same lock of the system, but leaves its file beside every output. Deleting that file
while it is held is safe only if every other process notices; filelock compares the number of links, which on NFS stays
1 for a deleted file that is open, whereas this module compares the file with the one at the path. filelock also takes
50 ms to import, a third of the time of `--help`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsi_attn.errors import OutputBusyError

POLL = 0.02
"""Seconds between two attempts to take a lock."""

HELD = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}
UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}
"""Errors of file systems without locks, such as NFS without its lock service and Lustre mounted without `flock`."""


@contextmanager
def output_lock(path: Path, wait: float = 0.0) -> Iterator[bool]:
    """Hold the exclusive right to write `path`; yields whether an earlier holder was killed.

    The lock file lies beside `path`. At the end it is removed, and with it the folders made for it, if nothing was
    written into them. On a file system without locks there is no protection against a second writer.

    Parameters
    ----------
    wait
        Seconds to wait for another holder.

    Raises
    ------
    OutputBusyError : another process, or another thread of this one, holds it.
    OSError : the folder cannot be written to.
    """
    lock = lock_file(path)
    made = [folder for folder in lock.parents if not folder.exists()]
    abandoned = lock.exists()  # Every holder removes it, unless it is killed. One that still lives is waited for.
    handle = _acquire(lock, path, time.monotonic() + wait)
    try:
        yield abandoned
    finally:
        with contextlib.suppress(PermissionError):  # Windows cannot remove an open file; an unlocked one is harmless
            lock.unlink(missing_ok=True)
        os.close(handle)
        with contextlib.suppress(OSError):  # Not empty, also while another process holds a lock in it.
            for folder in made:
                folder.rmdir()


def lock_file(path: Path) -> Path:
    """Path of the lock file of `path`; it exists while the lock is held, and after its holder was killed."""
    return path.with_name(f".{path.name}.lock")


def _acquire(lock: Path, path: Path, give_up: float) -> int:
    """Open and lock the file; return its descriptor."""
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
        except FileNotFoundError:  # The last holder has just removed the folder.
            continue
        try:
            held_elsewhere = not _try_lock(handle)
            # The last holder may have removed the file between opening and locking it.
            if not held_elsewhere and lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
        except FileNotFoundError:
            held_elsewhere = False
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if held_elsewhere and time.monotonic() >= give_up:
            raise OutputBusyError(f"Another process is writing {path}; wait for it, or choose another --output", path)
        if held_elsewhere:
            time.sleep(POLL)


def _try_lock(handle: int) -> bool:
    """Whether the lock was free; also True where the file system has no locks."""
    try:
        _lock(handle)
    except OSError as error:
        if error.errno in HELD:
            return False
        if error.errno not in UNSUPPORTED:
            raise
    return True


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
