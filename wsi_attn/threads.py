"""Thread limits of this process and of the libraries that start their own threads.

Idle OpenMP threads sleep instead of spinning: spinning threads take the processor from the threads that they wait for
as soon as the machine is oversubscribed. Imports only the standard library, since most settings are read when a library
is loaded.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

WAIT_POLICY = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT")
"""Variables that control how idle OpenMP threads wait; if the user has set one, all are left unchanged."""

POOL_SIZES = ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM", "TIFFFILE_NUM_THREADS", "ZARR_THREADING__MAX_WORKERS")
"""Variables from which libraries take the size of their pools on loading; the first also applies to PyTorch, OpenBLAS,
MKL and Arrow. Numba is excluded: it rejects a variable that changes once its threads run, so each parallel call passes
the limit to it.
"""

BLAS_SIZES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables to which BLAS libraries give priority over `OMP_NUM_THREADS`."""

_explicit: list[int] = []
"""The limit set by `limit_threads`; empty if none is set."""


def set_wait_policy() -> None:
    """Let idle OpenMP threads sleep, unless the user has chosen otherwise.

    OpenMP libraries (of PyTorch, scikit-learn, imagecodecs, Numba) read the variable when they are loaded; libraries
    that are already loaded do not change. Child processes inherit it.
    """
    if not any(name in os.environ for name in WAIT_POLICY):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def thread_limit() -> int:
    """Number of threads that compute or read in this process: the limit if set, otherwise the available CPUs.

    Processes started by `torchrun` on one machine divide either number among them, at least 1 each.
    """
    return max(1, (_explicit[0] if _explicit else available_cpus()) // local_processes())


def limit_threads(limit: int | None) -> None:
    """Limit all thread pools of this process: PyTorch, OpenMP, BLAS, OpenCV, Numba, and slide readers.

    Parameters
    ----------
    limit
        Maximum number of threads, divided among the `torchrun` processes on one machine. None uses the available
        CPUs; a pool whose size is set in the environment (`OMP_NUM_THREADS`) then keeps it, and libraries that are
        already loaded keep their pools.
    """
    _explicit[:] = [] if limit is None else [limit]
    threads = thread_limit()
    if limit is not None:
        os.environ.update(dict.fromkeys((*POOL_SIZES, *BLAS_SIZES), str(threads)))
        _limit_loaded(threads)
    elif threads < (os.cpu_count() or 1):  # otherwise the libraries count correctly themselves
        for name in POOL_SIZES:
            os.environ.setdefault(name, str(threads))


@cache
def blas_libraries() -> ThreadpoolController:
    """The BLAS libraries that are loaded at the first call; `.limit(limits=1)` bounds their threads for a while.

    They are listed once. Listing needs the dynamic loader's lock and then the interpreter lock, and a thread that
    imports a compiled module takes them in the other order: call this before such a thread starts.
    """
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def available_cpus() -> int:
    """CPUs available to this process: its affinity mask, limited to the quota of its control groups, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # not available on macOS and Windows
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cgroup_quota()
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def local_processes() -> int:
    """Number of processes of one `torchrun` on this machine; 1 without it."""
    with contextlib.suppress(ValueError):
        return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return 1


def cgroup_quota(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The smallest CPU quota of this process's control groups and their parents, in CPUs; None without a quota.

    Parameters
    ----------
    proc
        The file that lists the groups of the process.
    root
        Mount point of the hierarchies: the folder itself for version 2, its subfolder `cpu` for version 1.
    """
    try:
        lines = proc.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [root / "cpu", root / "cpu,cpuacct"] if controllers else [root, root / "unified"]
        # In a container the path of the group may be that of the host; its own limits are then at the mount point.
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for mount in mounts:
            quotas += [_quota_of(mount.joinpath(*parts[:depth])) for depth in range(len(parts) + 1)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_of(group: Path) -> float | None:
    """Quota of one control group in CPUs."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text(encoding="utf-8") for name in names).split()
            if quota != "max" and int(quota) > 0 and int(period) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError):
            continue
    return None


def _limit_loaded(threads: int) -> None:
    """Apply the limit to libraries that are already loaded."""
    if "numpy" in sys.modules:
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads)  # OpenMP and BLAS; permanent without `with`
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
        with contextlib.suppress(RuntimeError):  # can only be changed before the first parallel work
            torch.set_num_interop_threads(threads)
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(threads)
    if zarr := sys.modules.get("zarr"):
        zarr.config.set({"threading.max_workers": threads})
