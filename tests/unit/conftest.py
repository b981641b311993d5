"""Unit tests run beside other work: one thread for networks, which are tiny here, and no deadlines for properties."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture(scope="module", autouse=True)
def single_thread() -> Iterator[None]:
    """Once per module: a parallel Numba kernel, wherever it runs, resets the number for torch too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
