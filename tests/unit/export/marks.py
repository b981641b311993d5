"""A slide with one dark mark at known level-0 pixels, in every shape that shifts coordinates elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import tifffile

from tests.slides import ArraySlide
from wsi_attn.data.sources import open_source
from wsi_attn.export import source as source_module
from wsi_attn.export.source import ExportSource, open_export_source
from wsi_attn.geometry import Frame, Mpp, Region, Size
from wsi_attn.store.prediction_maps import AttentionMap
from wsi_attn.store.predictions import SlidePrediction, write_prediction
from wsi_attn.store.records import AttendedRegion

SIZE = Size(1501, 1103)
MARK = Region(1007, 613, 40, 30)
MPP = Mpp(0.5, 0.4)
CELL = (37.3, 41.9)
GLASS = 235

KINDS = ("bounds", "non-dyadic", "unknown mpp", "file")


def marked() -> np.ndarray:
    """uint8 (rows, columns, 3): plain but for the mark."""
    pixels = np.full((SIZE.height, SIZE.width, 3), GLASS, np.uint8)
    pixels[MARK.y : MARK.y1, MARK.x : MARK.x1] = 0
    return pixels


def centre(region: Region = MARK) -> tuple[float, float]:
    """The middle of a region, level-0 pixels."""
    return region.x + region.width / 2, region.y + region.height / 2


def darkness_at(picture: np.ndarray, downsample: tuple[float, float]) -> tuple[float, float]:
    """The middle of what is darker than glass, in level-0 pixels."""
    dark = np.clip(GLASS - 25 - picture.astype(float).mean(axis=-1), 0, None)
    assert dark.any(), "the mark is gone"
    rows, columns = np.indices(dark.shape) + 0.5
    total = dark.sum()
    return (columns * dark).sum() / total * downsample[0], (rows * dark).sum() / total * downsample[1]


def cell_of_mark() -> tuple[Frame, tuple[int, int]]:
    """The frame of the attention map, and row and column of the cell that holds the middle of the mark."""
    frame = Frame.covering(SIZE, *CELL)
    x, y = centre()
    return frame, (int(y / CELL[1]), int(x / CELL[0]))


def cell_region() -> tuple[float, float, float, float]:
    """Left, top, right, bottom of that cell in level-0 pixels."""
    _, (row, column) = cell_of_mark()
    return column * CELL[0], row * CELL[1], (column + 1) * CELL[0], (row + 1) * CELL[1]


def prediction_of(slide: str, fingerprint: str, mpp: Mpp | None) -> SlidePrediction:
    """Attends to the mark alone: one region that is the mark, one cell that holds its middle."""
    frame, place = cell_of_mark()
    values = np.full((frame.size.height, frame.size.width), np.nan, np.float32)
    values[place] = 1
    evidence = values * np.float32(-2.5)
    return SlidePrediction(
        slide=slide,
        size0=SIZE,
        label="tumour",
        probabilities={"normal": 0.25, "tumour": 0.75},
        uncertainty={"entropy": 0.5},
        tissue_fraction=0.1,
        unreadable_tiles=0,
        attention=(AttendedRegion(*MARK, 1.0),),
        model={"name": "hand-made", "sha256": "0" * 64},
        mpp=tuple(mpp) if mpp else None,
        seconds=1.0,
        software={"python": "3"},
        attention_map=AttentionMap(frame, values),
        fingerprint=fingerprint,
        maps={"evidence:tumour": AttentionMap(frame, evidence)},
    )


def make_subject(kind: str, folder: Path, monkeypatch) -> ExportSource:
    """The prediction of a marked slide, as `export` opens it."""
    path, slide = folder / "marked.tif", None
    if kind == "file":
        write_tiff(path)
    else:
        path.write_bytes(b"not read")
        levels = (1.0, 2.7, 7.3) if kind == "non-dyadic" else (1.0, 4.0)
        slide = ArraySlide(marked(), levels=levels, mpp=None if kind == "unknown mpp" else MPP, name=str(path))
        if kind == "bounds":
            slide.info = replace(slide.info, bounds=Region(311, 207, 1000, 800))
    opened = open_source(path) if slide is None else slide
    prediction = prediction_of(str(path), opened.info.fingerprint, opened.info.mpp)
    file = folder / "marked.prediction.json"
    write_prediction(prediction, file)
    if slide is not None:
        monkeypatch.setattr(source_module, "open_source", lambda _: slide)
    return open_export_source(file)


def write_tiff(path: Path) -> None:
    """A real pyramidal TIFF whose levels do not halve; pages as OpenSlide reads them."""
    pixels = marked()
    with tifffile.TiffWriter(path) as writer:
        for index, factor in enumerate((1, 2.5, 6.2)):
            size = round(SIZE.width / factor), round(SIZE.height / factor)
            level = pixels if index == 0 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            writer.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(index > 0),
                resolution=(10_000 / MPP.x / factor, 10_000 / MPP.y / factor),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
