"""`ExportSource`: the input of an export or heatmap, a prediction, store or slide, with its layers and pixels.

The only place where a name on the command line ("attention", "score:NAME") becomes a raster, and where a prediction is
matched with its slide.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_attn.data.inputs import stores_in
from wsi_attn.data.sources import find_slide, open_images, open_source
from wsi_attn.errors import PredictionError
from wsi_attn.geometry import ORIGIN, Frame, Mpp, Point, Size
from wsi_attn.heatmaps.blend import blend_tiles, tile_frame
from wsi_attn.heatmaps.layer import ATTENTION, Layer
from wsi_attn.heatmaps.legend import NOTICE
from wsi_attn.heatmaps.picture import Caption, caption_of, origin_of
from wsi_attn.heatmaps.raster import FloatArray
from wsi_attn.json_types import JsonObject
from wsi_attn.paths import path_to_text, printable
from wsi_attn.provenance import software
from wsi_attn.registry import unknown_name
from wsi_attn.slide import Slide, name_of
from wsi_attn.slides.open import slide_exists
from wsi_attn.store.predictions import MAPS_SUFFIX, SUFFIX, SlidePrediction, read_prediction
from wsi_attn.store.records import AttendedRegion
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tissue.find import stored_tissue
from wsi_attn.tissue.mask import TissueMask

NO_LAYER = "slide"
"""Name that selects the slide's own pixels without colours."""

TISSUE = "tissue"
SCORE = "score:"


class Tiles(NamedTuple):
    """Rectangles with values: float64 (N, 4) x, y, width, height in level-0 pixels, and columns (N,) by name."""

    boxes: NDArray[np.float64]
    columns: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class ExportSource:
    """One input of `heatmap` or `export`.

    `path` is the input path, `stem` the base name of outputs, `slide` the file with the pixels, `grid` the tiles whose
    scores a store shows, `qupath_origin` the origin of GeoJSON coordinates. `prediction` and `store` determine its
    kind; a bare slide has neither. `mark` is the mark of its outputs, see `finished`. `images` are those of a field of
    several images, in place of `slide`.
    """

    path: Path
    stem: str
    slide: Path
    fingerprint: str
    size0: Size
    mpp: Mpp | None
    grid: str = "default"
    prediction: SlidePrediction | None = None
    store: bool = False
    qupath_origin: Point = ORIGIN
    scores: tuple[str, ...] = ()
    mark: str = ""
    images: tuple[Path, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the available quantities, the default one first."""
        if self.prediction:
            return (ATTENTION, *self.prediction.maps)
        if not self.store:
            return ()
        names = sorted(self.scores, key=lambda name: (name != TISSUE, name))
        return (*(f"{SCORE}{name}" for name in names), TISSUE)

    def layer(self, name: str | None = None) -> Layer:
        """One quantity as a raster; the first of `layers` by default.

        Scores are rasterised on pixels that preserve tile edges and averaged where tiles overlap (`heatmaps.blend`);
        tissue is 1 inside tissue and NaN elsewhere.

        Raises
        ------
        UnknownNameError : unknown quantity; the message lists the available ones.
        """
        if name is None and self.layers:
            name = self.layers[0]
        if name not in self.layers:
            raise unknown_name(f"quantity of {self.path}", name or "attention", (*self.layers, NO_LAYER))
        if self.prediction:
            found = self.prediction.attention_map if name == ATTENTION else self.prediction.maps[name]
            return Layer(name, found.frame, found.values)
        with TileStore.open(self.path) as store:
            if name == TISSUE:
                mask, frame = store.tissue()
                return Layer(name, frame, np.where(mask, 1, np.nan).astype(np.float32))
            grid = store.grid(self.grid)
            stride = grid.tile_size - grid.overlap
            frame = tile_frame(self.size0, grid.extent0, (stride * grid.downsample_x, stride * grid.downsample_y))
            values = store.scores(self.grid, name.removeprefix(SCORE))
            return Layer(name, frame, blend_tiles(store.coords(self.grid), grid.extent0, values, frame))

    @contextmanager
    def pixels(self) -> Iterator[Slide]:
        """Open the slide; raises `PredictionError` if it is missing or is not the predicted one."""
        if not slide_exists(self.slide):
            raise PredictionError(f"The slide {self.slide} was not found; set its current path with --slide")
        with open_images(self.images) if len(self.images) > 1 else open_source(self.slide) as slide:
            if slide.info.fingerprint != self.fingerprint:
                raise PredictionError(
                    f"{self.slide} is not the slide of this prediction; set the path of the right one with --slide"
                )
            if self.prediction and slide.info.size0 != self.size0:
                raise PredictionError(
                    f"{self.slide} is {slide.info.size0.width} x {slide.info.size0.height} px, and its prediction "
                    f"states {self.size0.width} x {self.size0.height} px: the record is damaged, rerun predict"
                )
            yield slide

    @property
    def caption(self) -> Caption:
        """Text of the legend."""
        if self.prediction:
            return caption_of(self.prediction)
        return Caption(printable(self.slide.name), ("Scores of tiles",) if self.store else (), self.mpp)

    @property
    def origin(self) -> JsonObject:
        """Provenance stored in output files."""
        mark = {"made": self.mark} if self.mark else {}
        if self.prediction:
            return {**origin_of(self.prediction), **mark}
        return {
            "slide": path_to_text(self.slide),
            "fingerprint": self.fingerprint,
            "software": software(),
            "notice": NOTICE,
            **mark,
        }

    def regions(self, count: int, name: str | None = None) -> list[AttendedRegion]:
        """The regions of highest weight, at most `count`.

        Regions that a model read, a store's highest tiles, or the highest cells of any other quantity.
        """
        if name is None and not self.layers:
            return []
        name = name or self.layers[0]
        if self.prediction and name == ATTENTION:
            return list(self.prediction.attention[:count])
        tiles = self.tiles() if name.startswith(SCORE) else self.cells(name)
        boxes, values = tiles.boxes, tiles.columns[name.removeprefix(SCORE)]
        regions = []
        for index in strongest(values, count).tolist():
            x, y, width, height = (round(number) for number in boxes[index].tolist())
            regions.append(AttendedRegion(x, y, width, height, float(values[index])))
        return regions

    def tiles(self) -> Tiles:
        """A store's tiles with their scores; empty for other inputs."""
        if not self.store:
            return Tiles(np.empty((0, 4)), {})
        with TileStore.open(self.path) as store:
            coords, extent = store.coords(self.grid), store.grid(self.grid).extent0
            boxes = np.concatenate([coords, np.broadcast_to(extent, coords.shape)], axis=1).astype(np.float64)
            names = [name.removeprefix(SCORE) for name in self.layers if name.startswith(SCORE)]
            return Tiles(boxes, {name: store.scores(self.grid, name).astype(np.float64) for name in names})

    def tissue(self) -> TissueMask:
        """A store's tissue mask."""
        with TileStore.open(self.path) as store:
            return stored_tissue(store)

    def cells(self, name: str | None = None) -> Tiles:
        """Valid cells of a layer, clipped to the slide, with their values."""
        layer = self.layer(name)
        seen = ~np.isnan(layer.values)
        return Tiles(self.boxes(layer.frame, seen), {layer.name: layer.values[seen].astype(np.float64)})

    def boxes(self, frame: Frame, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Cells of a frame, clipped to the slide: float64 (N, 4) x, y, width, height in level-0 pixels, row by row."""
        rows, columns = np.nonzero(chosen)
        x0, y0 = columns * frame.downsample_x, rows * frame.downsample_y
        x1 = np.minimum(x0 + frame.downsample_x, self.size0.width)
        y1 = np.minimum(y0 + frame.downsample_y, self.size0.height)
        return np.stack([x0, y0, x1 - x0, y1 - y0], axis=1)


def prediction_source(
    prediction: SlidePrediction, path: Path | None = None, slide: Path | None = None, images: tuple[Path, ...] = ()
) -> ExportSource:
    """Use a prediction as the source of images and exports.

    Parameters
    ----------
    path
        Its file; None for a prediction that is only in memory.
    slide
        Current path of its slide, if different from the recorded one.
    images
        The images of a field of several images.
    """
    place = slide or find_slide(prediction.places, prediction.fingerprint) or Path(prediction.slide)
    stem = name_of(place) if path is None else path.name.removesuffix(SUFFIX).removesuffix(".json")
    mpp = Mpp(*prediction.mpp) if prediction.mpp else None
    source = ExportSource(path or place, stem, place, prediction.fingerprint, prediction.size0, mpp)
    return replace(source, prediction=prediction, images=images, qupath_origin=prediction.origin)


def open_export_source(
    path: Path, slide: Path | None = None, grid: str = "default", slide_mpp: Mpp | None = None
) -> ExportSource:
    """Open a prediction file, a store, or a slide.

    Parameters
    ----------
    slide
        Current path of the slide of a prediction.
    grid
        The grid of a store whose scores are shown.
    slide_mpp
        Pixel size of level 0 of a slide or store, µm.
    """
    if path.name.endswith(MAPS_SUFFIX):  # those of a prediction's maps are part of the prediction
        path = path.with_name(path.name.removesuffix(MAPS_SUFFIX) + SUFFIX)
    if path.suffix == ".json":
        return prediction_source(read_prediction(path), path, slide)
    with open_source(path, slide_mpp) as source:
        info = source.info
        store = isinstance(source, TileStore)
        scores = source.grid(grid).scores if isinstance(source, TileStore) else ()
        return ExportSource(
            path,
            info.name,
            path,
            info.fingerprint,
            info.size0,
            info.mpp,
            grid,
            store=store,
            qupath_origin=info.origin,
            scores=scores,
        )


def results_in(folder: Path) -> list[Path]:
    """Predictions in a folder, or otherwise its stores, sorted by name; not recursive."""
    return sorted(folder.glob(f"*{SUFFIX}")) or stores_in(folder)


def strongest(values: NDArray[np.float64] | FloatArray, count: int) -> NDArray[np.int64]:
    """Indices of the `count` largest values, largest first, ties in order; NaN excluded."""
    order = np.argsort(-values, kind="stable")
    return order[~np.isnan(values[order])][:count]
