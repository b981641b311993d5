"""Regions and stores equal what at least two independent readers show; who differs is listed, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from tests import tiff_files
from tests.cli.runner import in_process
from tests.dicom_files import write_series
from tests.readers import READERS, CannotReadError
from tests.unit.slides.test_colours import HALF, OME, PIXELS, jpeg_tiff, opacity, stream_of, tiles_of, ycbcr_tiff
from wsi_attn.cli.app import run
from wsi_attn.slide import Slide
from wsi_attn.slides.open import open_slide

SIDE = 200
"""Pixels along a side of the regions that are compared."""

ROWS = 2048
"""Rows of a level that are compared at once."""

BELIEVES_TAG = "believes PhotometricInterpretation, and the streams state other colours"
TURNS_TILES = "turns each tile in its place (libtiff's RGBA interface)"
AS_STORED = "returns rows and columns as they are stored"
RAW_YCBCR = "does not convert YCbCr without JPEG"


@dataclass(frozen=True)
class Case:
    """A slide: how it is made, the readers that differ and why, and grey levels by which the others may round.

    `alone` is the first level that only OpenSlide reads: it derives the level, or reads it from another file, which is
    a case of its own.
    """

    make: Callable[[Path], Path] | None = None
    differ: dict[str, str] = field(default_factory=dict)
    tolerance: int = 0
    alone: int = 99


def page_of(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """One page."""
    tifffile.imwrite(path, pixels, metadata=None, **{"photometric": "rgb", **options})
    return path


def streams(kind: str) -> list[list[bytes]]:
    """JPEG tiles of two levels."""
    return [[stream_of(tile, kind) for tile in tiles_of(level)] for level in (PIXELS, HALF)]


def premultiplied() -> np.ndarray:
    """Tissue that fades out, multiplied by its opacity."""
    alpha = opacity()
    return np.dstack([(PIXELS[:256, :256] * (alpha[..., None] / 255)).round().astype(np.uint8), alpha])


ORIENTED = {"extratags": [(274, 3, 1, 3, True)]}
LEVELS = tiff_files.pyramid_of(PIXELS, tiff_files.halves(PIXELS, 1))

MADE = {
    "svs.svs": Case(lambda path: tiff_files.write_svs(path, LEVELS)),
    "deflate.tif": Case(lambda path: tiff_files.write_generic(path, LEVELS)),
    "grey.tif": Case(lambda path: tiff_files.write_generic(path, [level[..., 1] for level in LEVELS])),
    "jfif_tag_rgb.ome.tif": Case(
        lambda path: jpeg_tiff(path, streams("jfif"), 2, OME),
        dict.fromkeys(("openslide", "libvips", "pillow"), BELIEVES_TAG),
    ),
    "jfif_tag_rgb.tif": Case(
        lambda path: jpeg_tiff(path, streams("jfif"), 2),
        dict.fromkeys(("openslide", "libvips", "pillow"), BELIEVES_TAG),
    ),
    "jfif_tag_ycbcr.tif": Case(lambda path: jpeg_tiff(path, streams("jfif"), 6)),
    "aperio_like.tif": Case(
        lambda path: jpeg_tiff(path, streams("bare"), 2),
        {"streams": "libjpeg takes component numbers 0, 1, 2 without a marker for YCbCr"},
    ),
    "orientation_strips.tif": Case(
        lambda path: page_of(path, PIXELS, compression="deflate", rowsperstrip=64, **ORIENTED), {"tifffile": AS_STORED}
    ),
    "orientation_tiles.tif": Case(
        lambda path: page_of(path, PIXELS[:500, :370], compression="deflate", tile=(128, 128), **ORIENTED),
        {"openslide": TURNS_TILES, "tifffile": AS_STORED},
    ),
    "ycbcr_strips.tif": Case(lambda path: ycbcr_tiff(path, 1, 1), {"libvips": RAW_YCBCR}, 2),
    "ycbcr_tiles.tif": Case(lambda path: ycbcr_tiff(path, 1, 1, 5, tiled=True), {"libvips": RAW_YCBCR}, 2),
    "associated_alpha.tif": Case(
        lambda path: page_of(path, premultiplied(), compression="deflate", extrasamples=["ASSOCALPHA"]), {}, 2
    ),
    "unassociated_alpha.tif": Case(
        lambda path: page_of(
            path,
            np.dstack([PIXELS[:256, :256], opacity()]),
            compression="deflate",
            extrasamples=["UNASSALPHA"],
            tile=(64, 64),
        ),
        {},
        2,
    ),
    "uncompressed_240.tif": Case(lambda path: page_of(path, PIXELS, tile=(240, 240))),
    "uncompressed_16.tif": Case(lambda path: page_of(path, PIXELS, tile=(16, 16))),
    "series": Case(lambda path: write_series(path, [PIXELS, HALF]) / "level-0.dcm"),
}
"""Of the kinds that readers treat differently, made from the demo slide."""

REAL = {
    "cmu1_small_region.svs": Case(),
    "crc01_he_left.tif": Case(),
    "generic_pyramid.tiff": Case(),
    "ndpi_dapi.ndpi": Case(alone=4),
    "orientation1.tif": Case(),
    "orientation3.tif": Case(differ={"openslide": TURNS_TILES, "tifffile": AS_STORED, "streams": AS_STORED}),
    "tiny.svs": Case(),
    "untiled_10000x5000_grey.tif": Case(),
    "ome_planar_rgb.ome.tif": Case(),
    "dicom_camelyon_level.dcm": Case(),
    "dicom_sm_rgb.dcm": Case(),
    "dicom_pair/part0.dcm": Case(),
    "dicom_pair/part1.dcm": Case(
        differ={"pydicom": "reads this file; OpenSlide reads part0, which is the slide"}, alone=0
    ),
}
"""Of the collection; the other files there are refused."""


def compare(slide: Slide, path: Path, case: Case) -> None:
    """Every level, at its corner, its middle and its end."""
    for index, level in enumerate(slide.info.levels):
        width, height = min(SIDE, level.size.width), min(SIDE, level.size.height)
        right, bottom = level.size.width - width, level.size.height - height
        agree, wrong, read = dict.fromkeys(READERS, True), set(), set()
        for x, y in sorted({(0, 0), (right // 2, bottom // 2), (right, bottom)}):
            ours = slide.read_region(
                (round(x * level.downsample_x), round(y * level.downsample_y)), index, (width, height)
            )
            for name, reader in READERS.items():
                try:
                    theirs = reader(path, index, x, y, width, height)
                except CannotReadError:
                    agree[name] = False
                    continue
                read.add(name)
                if np.abs(ours.astype(int) - theirs).max() > case.tolerance:
                    agree[name] = False
                    wrong.add(name)
        assert wrong <= case.differ.keys(), f"level {index}: {wrong - case.differ.keys()} differ and are not explained"
        if not index:  # at levels of one tile there may be nothing to differ about
            assert wrong == case.differ.keys() & read, "readers that are said to differ agree"
        single = index >= case.alone or (index > 0 and path.suffix == ".dcm")  # pydicom reads one file of a series
        needed = 1 if single else 2
        assert sum(agree.values()) >= needed, f"level {index}: only {[name for name in agree if agree[name]]} agree"


def store_equals(path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All levels of a store, read by zarr alone, are the slide's."""
    store = folder / "store.zarr"
    in_process(capsys, "tile", path, "-o", store, "--tile-size", "128", "--scores", "none", "--quiet")
    group = zarr.open_group(store, mode="r")
    with open_slide(path) as slide:
        for index, level in enumerate(slide.info.levels):
            for y in range(0, level.size.height, ROWS):
                size = level.size.width, min(ROWS, level.size.height - y)
                wanted = slide.read_region((0, round(y * level.downsample_y)), index, size)
                found = np.moveaxis(np.asarray(group[str(index)][:, y : y + size[1]]), 0, -1)
                assert np.array_equal(found, wanted), f"level {index}, row {y}"


@pytest.mark.parametrize("name", MADE)
def test_kinds_that_readers_treat_differently(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = MADE[name]
    assert case.make is not None
    path = case.make(tmp_path / name)
    with open_slide(path) as slide:
        compare(slide, path, case)
    store_equals(path, tmp_path, capsys)


@pytest.mark.parametrize("name", REAL)
def test_real_slides(
    name: str, collection: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = collection(f"slides/{name}")
    with open_slide(path) as slide:
        compare(slide, path, REAL[name])
    store_equals(path, tmp_path, capsys)


def test_no_slide_of_the_collection_is_left_out(
    collection: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = collection("slides")
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    opened = {name for name in files if run(["info", str(folder / name), "--quiet"]) == 0}
    capsys.readouterr()
    assert opened == REAL.keys()
