"""What a user would run instead, each as a process of its own: JOB SLIDE COORDS.npy OUTPUT.

COORDS is int64 (N, 2), level-0 corners of tiles of 256 px. `decode` is the limit that scoring is held against: every
one of these tiles decoded once by libjpeg-turbo on two threads, nothing else; it prints its seconds without start-up.
Run by `tiling.py`; the environment of a peer needs that peer and NumPy alone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

TILE, THREADS, BATCH = 256, len(os.sched_getaffinity(0)), 256


def decode(slide: str, coords: np.ndarray, _output: str) -> None:
    """Compressed tiles fetched beforehand; only decoding is timed."""
    import imagecodecs
    import tifffile

    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages.first
        across = page.chunked[1]
        colours = "YCBCR" if page.photometric == 6 else "RGB"
        places = [(y // TILE) * across + x // TILE for x, y in coords.tolist()]
        data = [os.pread(tiff.filehandle.fileno(), page.databytecounts[n], page.dataoffsets[n]) for n in places]
        tables = page.jpegtables
    own = threading.local()

    def one(stream: bytes) -> None:
        if not hasattr(own, "tile"):
            own.tile = np.empty((TILE, TILE, 3), np.uint8)
        imagecodecs.jpeg8_decode(stream, tables=tables, colorspace=colours, outcolorspace="RGB", out=own.tile)

    started = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda part: [one(stream) for stream in part], [data[n::64] for n in range(64)]):
            pass
    print(time.perf_counter() - started)


def to_zarr(read: object, coords: np.ndarray, output: str) -> None:
    """Batches of a shard each, read and written by all cores."""
    import zarr

    array = zarr.create_array(
        output,
        shape=(len(coords), TILE, TILE, 3),
        chunks=(1, TILE, TILE, 3),
        shards=(BATCH, TILE, TILE, 3),
        dtype="uint8",
        compressors=zarr.codecs.ZstdCodec(level=3),
    )

    def batch(start: int) -> None:
        places = coords[start : start + BATCH].tolist()
        array[start : start + BATCH] = np.stack([read(x, y) for x, y in places])  # type: ignore[operator]

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(batch, range(0, len(coords), BATCH)))


def openslide_zstd(slide: str, coords: np.ndarray, output: str) -> None:
    """OpenSlide into sharded Zarr."""
    import openslide

    handle = openslide.OpenSlide(slide)
    to_zarr(lambda x, y: np.asarray(handle.read_region((x, y), 0, (TILE, TILE)))[..., :3], coords, output)


def tifffile_zstd(slide: str, coords: np.ndarray, output: str) -> None:
    """tifffile's decoding of aligned tiles into sharded Zarr."""
    import tifffile

    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages.first
        handle, across = tiff.filehandle.fileno(), page.chunked[1]

        def read(x: int, y: int) -> np.ndarray:
            n = (y // TILE) * across + x // TILE
            data = os.pread(handle, page.databytecounts[n], page.dataoffsets[n])
            return page.decode(data, n, jpegtables=page.jpegtables)[0].reshape(TILE, TILE, 3)

        to_zarr(read, coords, output)


def dzsave(slide: str, _coords: np.ndarray, output: str) -> None:
    """libvips, the whole slide, since it cannot leave out glass."""
    import pyvips

    image = pyvips.Image.new_from_file(slide, access="sequential")
    image.dzsave(output, tile_size=TILE, overlap=0, depth="one", suffix=".jpg[Q=85]")


def tiatoolbox(slide: str, coords: np.ndarray, _output: str) -> None:
    """TIAToolbox's reader over these tiles; nothing is written."""
    import torch

    # Lets a torchvision without its compiled operators load; reading tiles uses none of them.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from tiatoolbox.wsicore.wsireader import WSIReader

    reader = WSIReader.open(slide)
    for x, y in coords.tolist():
        reader.read_rect((x, y), (TILE, TILE), resolution=0, units="level")


def lazyslide(slide: str, coords: np.ndarray, _output: str) -> None:
    """The reader behind LazySlide over these tiles; nothing is written."""
    from wsidata import open_wsi

    wsi = open_wsi(slide)
    for x, y in coords.tolist():
        wsi.read_region(x, y, TILE, TILE, level=0)


if __name__ == "__main__":
    job, slide_path, coords_path, output_path = sys.argv[1:5]
    globals()[job](slide_path, np.load(coords_path), str(Path(output_path)))
