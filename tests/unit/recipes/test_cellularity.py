"""The label of a field follows from its mask alone, and the same seed gives the same field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsi_attn.recipes import cellularity
from wsi_attn.recipes.cellularity import CELL, DENSE_FROM, FEATHER, MODERATE_FROM, WINDOW, Source


def source(name: str, share: float, side: int = 400) -> Source:
    """Square nuclei, 10 px a side, on a lattice so that they cover `share` of the area."""
    step = 10 / np.sqrt(share)
    nuclei = np.zeros((side, side), np.float32)
    for y in np.arange(0, side - 10, step):
        for x in np.arange(0, side - 10, step):
            nuclei[int(y) : int(y) + 10, int(x) : int(x) + 10] = 1
    return Source(name, np.repeat((0.1 + nuclei)[..., None], 3, axis=2), nuclei)


def test_densest_window_of_one_block() -> None:
    nuclei = np.zeros((512, 512), np.float32)
    nuclei[200:264, 200:264] = 1
    peak, share = cellularity.densest_window(nuclei)
    assert peak == pytest.approx(64 * 64 / WINDOW**2)
    assert share[232, 232] == pytest.approx(peak)
    assert share[0, 0] == 0


@pytest.mark.parametrize(
    ("peak", "label"),
    [(0, "sparse"), (MODERATE_FROM, "moderate"), (DENSE_FROM - 1e-6, "moderate"), (DENSE_FROM, "dense"), (1, "dense")],
)
def test_label_by_peak(peak: float, label: str) -> None:
    assert cellularity.label_of(peak) == label


@pytest.mark.parametrize("wanted", cellularity.LABELS)
def test_field_has_the_label_of_its_mask_and_is_repeatable(wanted: str) -> None:
    sources = [source("few", 0.05), source("some", 0.27), source("many", 0.6)]
    fields = [cellularity.assemble("f", "test", sources, wanted, np.random.default_rng(3)) for _ in range(2)]
    assert np.array_equal(fields[0].pixels, fields[1].pixels)
    field = fields[0]
    assert field.label == wanted
    assert field.mpp == 0.5
    assert field.pixels.dtype == np.uint8
    assert field.pixels.shape[0] % CELL == 2 * FEATHER
    assert field.mask is not None
    assert field.mask.any()
    assert replace(field, pixels=None, mask=None) == replace(fields[1], pixels=None, mask=None)


def test_pieces_blend_to_one() -> None:
    line = np.zeros(3 * CELL + 2 * FEATHER)
    for index in range(3):
        line[index * CELL : (index + 1) * CELL + 2 * FEATHER] += cellularity.FEATHERED[CELL // 2]
    assert line[2 * FEATHER : -2 * FEATHER] == pytest.approx(1, abs=0.02)


def test_parts_share_no_image(collection: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    data = collection("segment/dsb2018").parents[1]
    parts = cellularity._sources(data / cellularity.DATA, np.random.default_rng(0))
    names = {split: {found.name for found in part} for split, part in parts.items()}
    assert (len(names["val"]), len(names["test"])) == (6, 8)
    assert len(names["train"]) >= 26  # the published collection grows
    assert not (names["train"] & names["val"])
    assert not (names["train"] & names["test"])
    assert not (names["val"] & names["test"])
    for part in parts.values():
        for found in part:
            assert found.density.shape[:2] == found.nuclei.shape
