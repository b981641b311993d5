"""`ExportSource`: what is exported or drawn, a prediction or a store or a slide, with its layers and its pixels.

The one place where a name on the command line ("attention", "score:NAME") becomes a raster, and where a prediction
is matched with the slide that it was made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

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
from wsi_attn.paths import path_to_text, printable
from wsi_attn.provenance import software
from wsi_attn.registry import unknown_name
from wsi_attn.slide import Slide, name_of
from wsi_attn.slides.open import slide_exists
from wsi_attn.store.predictions import MAPS_SUFFIX, SUFFIX, AttendedRegion, SlidePrediction, read_prediction
from wsi_attn.store.schema import TISSUE_VALUE, UNREADABLE_LABEL
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tissue.mask import TissueMask

NO_LAYER = "slide"
"""The name that asks for the slide's own pixels and no colours."""

TISSUE = "tissue"
SCORE = "score:"


class Tiles(NamedTuple):
    """Rectangles with numbers: float64 (N, 4) x, y, width, height in level-0 pixels, and columns (N,) by name."""

    boxes: NDArray[np.float64]
    columns: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class ExportSource:
    """One input of `heatmap` or `export`.

    `path` is what was named, `stem` what outputs are named after, `slide` where pixels lie, `grid` the tiles whose
    scores a store shows, `qupath_origin` where the coordinates of GeoJSON begin. `prediction` and `store`
    tell its kind; a bare slide has neither. `mark` is what files made of it carry, see `finished`. `images` are those
    of a field of several images, in place of `slide`.
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
        """Names of the quantities there are, the usual one first."""
        if self.prediction:
            return (ATTENTION, *self.prediction.maps)
        if not self.store:
            return ()
        names = sorted(self.scores, key=lambda name: (name != TISSUE, name))
        return (*(f"{SCORE}{name}" for name in names), TISSUE)

    def layer(self, name: str | None = None) -> Layer:
        """One quantity as a raster; the first of `layers` by default.

        A score comes on pixels that keep the edges of tiles, blended where they overlap (`heatmaps.blend`); tissue is
        1 where tissue is and NaN elsewhere.

        Raises
        ------
        UnknownNameError : it has no such quantity; the message names those that it has.
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
        """The slide, open; `PredictionError` where it is gone or is not the one that was predicted."""
        if not slide_exists(self.slide):
            raise PredictionError(f"The slide {self.slide} is not there any more; say where it lies with --slide")
        with open_images(self.images) if len(self.images) > 1 else open_source(self.slide) as slide:
            if slide.info.fingerprint != self.fingerprint:
                raise PredictionError(
                    f"{self.slide} is not the slide that was predicted; say where that lies with --slide"
                )
            yield slide

    @property
    def caption(self) -> Caption:
        """What a legend says of it."""
        if self.prediction:
            return caption_of(self.prediction)
        return Caption(printable(self.slide.name), ("Scores of tiles",) if self.store else (), self.mpp)

    @property
    def origin(self) -> dict[str, Any]:
        """What files made of it say of where they come from."""
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
        """The places that weighed most, at most `count`: regions that a model read, a store's highest tiles, or the
        highest cells of any other quantity.
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
        """A store's tiles with their scores; none for anything else."""
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
            values, frame = store.tissue_label()
            rule = store.meta.tissue
        return TissueMask(
            mask=values == TISSUE_VALUE,
            frame=frame,
            method=rule.method,
            measure=rule.measure,
            threshold=rule.threshold,
            readable=values != UNREADABLE_LABEL,
            size0=self.size0,
        )

    def cells(self, name: str | None = None) -> Tiles:
        """Cells of a layer that were looked at, clipped to the slide, with their value."""
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
    """A prediction as a source of pictures and exports.

    Parameters
    ----------
    path
        Its file; None for one that is in memory only.
    slide
        Where its slide lies now, if that is not where the prediction says.
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
        Where the slide of a prediction lies now.
    grid
        The grid of a store whose scores are shown.
    slide_mpp
        Pixel size of level 0 of a slide or store, µm.
    """
    if path.name.endswith(MAPS_SUFFIX):  # the maps of a prediction stand for it
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
    """Predictions of a folder, or else its stores, sorted by name; subfolders are not searched."""
    return sorted(folder.glob(f"*{SUFFIX}")) or stores_in(folder)


def strongest(values: NDArray[np.float64] | FloatArray, count: int) -> NDArray[np.int64]:
    """Indices of the `count` largest values, largest first, equal ones in their order; NaN never."""
    order = np.argsort(-values, kind="stable")
    return order[~np.isnan(values[order])][:count]
