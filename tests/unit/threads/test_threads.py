import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsi_attn.threads import POOL_SIZES, WAIT_POLICY, available_cpus, cgroup_quota, limit_threads, thread_limit

SETTINGS = {*WAIT_POLICY, *POOL_SIZES}


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, without the settings of this one."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, check=True
    )


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_quota_of_cgroup_version_2_is_the_smallest_on_the_way_up(tmp_path: Path) -> None:
    write(tmp_path / "proc", "0::/batch/job\n")
    write(tmp_path / "fs/batch/cpu.max", "150000 100000\n")
    write(tmp_path / "fs/batch/job/cpu.max", "max 100000\n")
    assert cgroup_quota(tmp_path / "proc", tmp_path / "fs") == 1.5


def test_quota_of_cgroup_version_1(tmp_path: Path) -> None:
    write(tmp_path / "proc", "5:memory:/x\n3:cpu,cpuacct:/docker/abc\n1:cpuset:/\n")
    write(tmp_path / "fs/cpu/docker/abc/cpu.cfs_quota_us", "300000\n")
    write(tmp_path / "fs/cpu/docker/abc/cpu.cfs_period_us", "100000\n")
    assert cgroup_quota(tmp_path / "proc", tmp_path / "fs") == 3


def test_quota_inside_a_container_lies_at_the_mount(tmp_path: Path) -> None:
    write(tmp_path / "proc", "0::/system.slice/of-the-host\n")
    write(tmp_path / "fs/cpu.max", "200000 100000\n")
    assert cgroup_quota(tmp_path / "proc", tmp_path / "fs") == 2


@pytest.mark.parametrize("text", ["max 100000\n", "", "-1 100000", "nonsense"])
def test_no_quota(tmp_path: Path, text: str) -> None:
    write(tmp_path / "proc", "0::/\n")
    write(tmp_path / "fs/cpu.max", text)
    assert cgroup_quota(tmp_path / "proc", tmp_path / "fs") is None
    assert cgroup_quota(tmp_path / "absent", tmp_path / "fs") is None


def test_a_quota_cuts_the_number_of_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_attn.threads.cgroup_quota", lambda: 0.5)
    assert available_cpus() == 1


def test_processes_of_torchrun_share_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_attn.threads.available_cpus", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert thread_limit() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert thread_limit() == 1


def test_libraries_are_told_only_where_they_would_count_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in POOL_SIZES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("wsi_attn.threads.available_cpus", lambda: 64)
    limit_threads(None)
    assert not SETTINGS & set(os.environ) - {"OMP_WAIT_POLICY"}
    monkeypatch.setattr("wsi_attn.threads.available_cpus", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    limit_threads(None)
    assert {name: os.environ.get(name) for name in POOL_SIZES} == dict.fromkeys(POOL_SIZES, "4") | {
        "OMP_NUM_THREADS": "3"
    }


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks on this system")
def test_affinity_counts() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from wsi_attn.threads import thread_limit; print(thread_limit())"
    )
    assert run_python(code).stdout == "1\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only GNU OpenMP shows its settings")
def test_the_policy_reaches_every_openmp_library() -> None:
    code = "import wsi_attn, torch, sklearn.linear_model, wsi_attn.scores.kernels as k; k.numba.get_num_threads()"
    shown = run_python(code, OMP_DISPLAY_ENV="verbose").stderr
    assert shown.count("OMP_WAIT_POLICY = 'PASSIVE'") >= 2
    assert "GOMP_SPINCOUNT = '0'" in shown
    assert "OMP_WAIT_POLICY = 'ACTIVE'" not in shown


@pytest.mark.parametrize("name", WAIT_POLICY)
def test_the_users_own_policy_wins(name: str) -> None:
    code = "import os; before = dict(os.environ); import wsi_attn; print(before == dict(os.environ))"
    assert run_python(code, **{name: "7"}).stdout == "True\n"


def test_libraries_that_are_loaded_already_are_limited_too() -> None:
    code = (
        "import json, torch, cv2, numpy, zarr\n"
        "from threadpoolctl import threadpool_info\n"
        "from wsi_attn.threads import limit_threads\n"
        "torch.set_num_threads(2)\n"
        "limit_threads(1)\n"
        "pools = [pool['num_threads'] for pool in threadpool_info()]\n"
        "print(json.dumps([torch.get_num_threads(), cv2.getNumThreads(), zarr.config.get('threading.max_workers')]\n"
        "      + [max(pools)]))"
    )
    assert json.loads(run_python(code).stdout) == [1, 1, 1, 1]
