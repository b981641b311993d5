"""Time and peak memory of `predict` as slides grow: python tests/benchmarks/predict_memory.py [SIDE ...].

Makes tiled pyramidal TIFFs, SIDE x SIDE pixels of 0.5 µm, out of the demo slide's pixels, predicts each in a process of
its own, and prints one JSON object a slide.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

TILE = 512
SLIDE = Path(__file__).parents[1] / "data" / "cmu1_small_region.svs"


def write_slide(path: Path, side: int) -> None:
    """The demo slide's pixels repeated over levels 1, 1/4 and 1/16, written tile by tile."""
    pixels = tifffile.imread(SLIDE, key=0)[: 2944 // 16 * 16, : 2208 // 16 * 16]
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level, factor in enumerate((1, 4, 16)):
            source = pixels[::factor, ::factor]
            extent = side // factor
            tiff.write(
                tiles(source, extent),
                shape=(extent, extent, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                subfiletype=1 if level else 0,
                metadata=None,
            )


def tiles(source: np.ndarray, extent: int) -> Iterator[np.ndarray]:
    """Tiles of the source, repeated to `extent` pixels a side."""
    for y in range(0, extent, TILE):
        for x in range(0, extent, TILE):
            rows, columns = np.arange(y, y + TILE) % source.shape[0], np.arange(x, x + TILE) % source.shape[1]
            yield source[np.ix_(rows, columns)]


if __name__ == "__main__":
    for side in [int(text) for text in sys.argv[1:]] or [8192, 16384, 32768]:
        with tempfile.TemporaryDirectory() as folder:
            slide = Path(folder) / "slide.tif"
            write_slide(slide, side)
            command = [str(Path(sys.executable).parent / "wsi-attn"), "predict", str(slide), "--slide-mpp", "0.5"]
            started = time.perf_counter()
            done = subprocess.run([*command, "--output", folder], check=True, capture_output=True, text=True)
            seconds = time.perf_counter() - started
            peak = next(line for line in done.stderr.splitlines() if line.startswith("peak memory")).split()[2]
            record = {
                "side": side,
                "megapixels": side * side / 1e6,
                "seconds": round(seconds, 2),
                "peak_mb": float(peak),
            }
            print(json.dumps(record), flush=True)
