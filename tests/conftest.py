"""Where real slides come from: small free files beside the tests, and a larger collection where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DATA = HERE / "data"
COLLECTION = Path(os.environ.get("WSI_ATTN_DATA", HERE.parent.parent / "shared" / "data"))
"""A folder with slides/, classify/, segment/ and so on; set WSI_ATTN_DATA to name another."""


@pytest.fixture
def demo_slide() -> Path:
    """A real H&E slide, Aperio SVS, 2220 x 2967 px, 0.499 µm/px, CC0."""
    return DATA / "cmu1_small_region.svs"


@pytest.fixture
def collection() -> Callable[[str], Path]:
    """A path in the larger collection; skips with a reason where it is not there."""

    def find(relative: str) -> Path:
        path = COLLECTION / relative
        if not path.exists():
            pytest.skip(f"{relative} is not in the data collection (WSI_ATTN_DATA)")
        return path

    return find
