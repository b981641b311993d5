"""The figures of docs/tissue.md. `python -m tests.unit.tissue.figures` prints its table."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.conftest import COLLECTION, DATA
from tests.unit.tissue import scenes
from wsi_attn.geometry import Frame, Mpp, Size
from wsi_attn.tissue.detect import detect_tissue
from wsi_attn.tissue.mask import TissueMask

SOURCES = {
    "cmu1": (DATA / "cmu1_small_region.svs", 6.0),
    "crc01": (COLLECTION / "slides/crc01_he_left.tif", 8.0),
    "camelyon": (COLLECTION / "slides/dicom_camelyon_level.dcm", 8.0),
}
"""Real H&E slides, and the µm/px they are looked at, where they say their own."""

METHODS = ("otsu", "robust")


@cache
def view(source: str) -> NDArray[np.uint8]:
    path, um = SOURCES[source]
    return scenes.view_of(Path(path), um)


def scene(source: str, spoiling: str) -> scenes.Scene:
    return scenes.jpeg(scenes.SPOILINGS[spoiling](scenes.clean(view(source))))


def find(pixels: NDArray[np.uint8], method: str) -> TissueMask:
    rows, columns = pixels.shape[:2]
    return detect_tissue(pixels, Frame(Size(columns, rows), 16.0, 16.0), Mpp(0.5, 0.5), method=method)


def table() -> str:
    """Markdown: a row for each spoiling, the overlap of each method for each source."""
    heads = [f"{source} {method}" for source in SOURCES for method in METHODS]
    lines = [f"| spoilt by | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for spoiling in scenes.SPOILINGS:
        found = []
        for source in SOURCES:
            spoilt = scene(source, spoiling)
            found += [f"{spoilt.iou(find(spoilt.pixels, method).mask):.2f}" for method in METHODS]
        lines.append(f"| {spoiling} | {' | '.join(found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201
