import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsi_attn.cli.app import app
from wsi_attn.threads import POOL_SIZES

REPORT = """
import json, sys
from wsi_attn.cli.app import run
code = run(sys.argv[1:])
import cv2, torch, zarr
from threadpoolctl import threadpool_info
from wsi_attn.threads import thread_limit
counts = [code, thread_limit(), torch.get_num_threads(), cv2.getNumThreads(), zarr.config.get("threading.max_workers")]
pools = [(pool["user_api"], pool["num_threads"]) for pool in threadpool_info()]
from wsi_attn.scores import kernels  # Numba's OpenMP pool changes PyTorch's count when it starts
with kernels.limited_threads():
    counts.append(kernels.numba.get_num_threads())
print(json.dumps([*counts, pools]))
"""


@pytest.mark.parametrize("option", ["--threads", "--workers"])
def test_one_option_bounds_every_pool(demo_slide: Path, tmp_path: Path, option: str) -> None:
    arguments = ["predict", demo_slide, "-o", tmp_path, "-q", option, "1"]
    environment = {name: value for name, value in os.environ.items() if name not in POOL_SIZES}
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    *counts, pools = json.loads(done.stdout.splitlines()[-1])
    assert counts == [0, 1, 1, 1, 1, 1]
    assert {kind for kind, _ in pools} == {"blas", "openmp"}
    assert {threads for _, threads in pools} == {1}


def test_every_command_that_computes_has_the_option() -> None:
    commands = dict(app.commands)
    commands |= commands.pop("models").commands
    options = {name: {parameter.name for parameter in command.made().params} for name, command in commands.items()}
    without = {name for name, names in options.items() if "threads" not in names}
    assert without <= {"info", "list", "show", "doctor"}
