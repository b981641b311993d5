"""What segmentation learns from: a class for every pixel of a row, from a mask image or from annotations.

A mask image covers the whole slide. With two classes whatever is not 0 is the second one, so that binary masks and
instance masks (8 or 16 bits, a number for each object) need no conversion; with more classes a pixel holds the number
of its class, or the value that `--classes` gives it. A GeoJSON file as QuPath writes it holds polygons whose
classifications are class names; what no polygon covers is background, what a polygon classified as `Ignore` covers has
no label, nor has what lies outside the row's `regions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_attn.data.manifest import Row
from wsi_attn.errors import ManifestError, TissueError, UsageError
from wsi_attn.geometry import ORIGIN, Frame, Point, Size
from wsi_attn.slide import UInt8Array
from wsi_attn.slides.image_reader import MAX_PIXELS
from wsi_attn.tissue.polygons import classified_polygons, read_regions
from wsi_attn.tissue.rings import Polygon, fill_polygons

UNLABELLED = 255
"""Value of a pixel without a label, in arrays of classes; so there are at most 255 classes."""

DEFAULT_NAMES = ("background", "foreground")
IGNORE = "ignore"
"""Beginning of the class names, in any case, whose polygons take the label away: QuPath's own `Ignore*`."""

GEOJSON = (".geojson", ".json")


@dataclass(frozen=True)
class Classes:
    """Names of the classes, the background first, and the value of each in a mask image.

    Without `values` there are two classes and all values but 0 mean the second, or the value is the class's number.
    """

    names: tuple[str, ...]
    values: tuple[int, ...] = ()

    @property
    def counts_objects(self) -> bool:
        """Whether values of a mask image number objects rather than classes."""
        return not self.values and len(self.names) == 2


class Window(NamedTuple):
    """A raster over a part of a slide: its corner in level-0 pixels, its size, level-0 pixels per pixel."""

    x0: float
    y0: float
    width: int
    height: int
    downsample_x: float
    downsample_y: float


class Mask(Protocol):
    """The labels of one row."""

    def read(self, window: Window) -> UInt8Array:
        """Class of each pixel's middle, uint8 (height, width); `UNLABELLED` outside the slide and where none is."""
        ...

    def objects(self, window: Window) -> NDArray[np.int32] | None:
        """Number of the object of each pixel, int32 (height, width), 0 for none.

        None where objects are not told apart, so that connected pixels of a class are one.
        """
        ...

    def place(self, generator: np.random.Generator) -> tuple[float, float] | None:
        """A random labelled place that is not background, level-0 pixels; None where there is none."""
        ...


class ImageMask:
    """Labels in an image over the whole slide.

    Parameters
    ----------
    classes
        uint8 (rows, columns).
    numbers
        int32 (rows, columns), objects, or None.
    size0
        Width and height of the slide.
    """

    def __init__(self, classes: UInt8Array, numbers: NDArray[np.int32] | None, size0: Size) -> None:
        self._classes, self._numbers, self._size0 = classes, numbers, size0

    def read(self, window: Window) -> UInt8Array:
        """See `Mask.read`."""
        rows, columns, inside = self._places(window)
        return np.where(inside, self._classes[np.ix_(rows, columns)], UNLABELLED).astype(np.uint8)

    def objects(self, window: Window) -> NDArray[np.int32] | None:
        """See `Mask.objects`."""
        if self._numbers is None:
            return None
        rows, columns, inside = self._places(window)
        return np.where(inside, self._numbers[np.ix_(rows, columns)], 0).astype(np.int32)

    def place(self, generator: np.random.Generator) -> tuple[float, float] | None:
        """See `Mask.place`; every class is as likely as any other."""
        present = np.bincount(self._classes.ravel(), minlength=UNLABELLED + 1)[1:UNLABELLED].nonzero()[0] + 1
        if not len(present):
            return None
        places = np.flatnonzero(self._classes == generator.choice(present))
        row, column = divmod(int(generator.choice(places)), self._classes.shape[1])
        return (column + 0.5) / self._scale_x, (row + 0.5) / self._scale_y

    @property
    def _scale_x(self) -> float:
        return float(self._classes.shape[1] / self._size0.width)

    @property
    def _scale_y(self) -> float:
        return float(self._classes.shape[0] / self._size0.height)

    def _places(self, window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Rows and columns of the mask under the pixels' middles, and which lie inside."""
        x = np.floor((window.x0 + (np.arange(window.width) + 0.5) * window.downsample_x) * self._scale_x)
        y = np.floor((window.y0 + (np.arange(window.height) + 0.5) * window.downsample_y) * self._scale_y)
        height, width = self._classes.shape
        inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None]
        rows, columns = y.clip(0, height - 1).astype(np.int64), x.clip(0, width - 1).astype(np.int64)
        return rows, columns, np.asarray(inside)


class PolygonMask:
    """Labels drawn as polygons over a slide; where they overlap, the class named later counts.

    Parameters
    ----------
    polygons
        Of each class, the background's first.
    ignored
        Whose label is taken away, whatever they lie on.
    size0
        Width and height of the slide.
    """

    def __init__(
        self,
        polygons: Sequence[Sequence[Polygon]],
        ignored: Sequence[Polygon],
        size0: Size,
    ) -> None:
        self._polygons, self._ignored, self._size0 = polygons, ignored, size0

    def read(self, window: Window) -> UInt8Array:
        """See `Mask.read`."""
        classes = np.zeros((window.height, window.width), np.uint8)
        for index, polygons in enumerate(self._polygons):
            classes[_filled(polygons, window)] = index
        whole = np.array([(0, 0), (self._size0.width, 0), self._size0, (0, self._size0.height)], np.float64)
        classes[~_filled([Polygon(whole)], window) | _filled(self._ignored, window)] = UNLABELLED
        return classes

    def objects(self, window: Window) -> NDArray[np.int32] | None:
        """See `Mask.objects`: one object for each polygon."""
        numbers = np.zeros((window.height, window.width), np.int32)
        for number, polygon in enumerate((polygon for part in self._polygons[1:] for polygon in part), 1):
            numbers[_filled([polygon], window)] = number
        return numbers

    def place(self, generator: np.random.Generator) -> tuple[float, float] | None:
        """See `Mask.place`: in the bounding box of a polygon; every class is as likely as any other."""
        present = [polygons for polygons in self._polygons[1:] if polygons]
        if not present:
            return None
        polygons = present[int(generator.integers(len(present)))]
        ring = polygons[int(generator.integers(len(polygons)))].exterior
        x, y = generator.uniform(ring.min(axis=0), ring.max(axis=0)).tolist()
        return x, y


class RegionMask:
    """Labels of another mask inside of regions alone."""

    def __init__(self, mask: Mask, regions: Sequence[Polygon]) -> None:
        self._mask, self._regions = mask, regions

    def read(self, window: Window) -> UInt8Array:
        """See `Mask.read`."""
        classes = self._mask.read(window)
        classes[~_filled(self._regions, window)] = UNLABELLED
        return classes

    def objects(self, window: Window) -> NDArray[np.int32] | None:
        """See `Mask.objects`; whole ones, of which only what has a label is compared."""
        return self._mask.objects(window)

    def place(self, generator: np.random.Generator) -> tuple[float, float] | None:
        """See `Mask.place`: of the mask, inside the regions or not."""
        return self._mask.place(generator)


def parse_classes(text: str) -> Classes:
    """Classes from `--classes`: names with commas between, the background first, each with `=VALUE` or none.

    Raises
    ------
    UsageError : fewer than two names, one twice, or values that are no whole numbers, or not of all.
    """
    parts = [part.strip().partition("=") for part in text.split(",")]
    names = tuple(name.strip() for name, _, _ in parts)
    if len(names) < 2 or len(set(names)) < len(names) or not all(names) or len(names) > UNLABELLED:
        raise UsageError(f"--classes takes two names at least, each once, the background first, not {text!r}")
    given = [value.strip() for _, equals, value in parts if equals]
    if not given:
        return Classes(names)
    if len(given) < len(names) or not all(value.isdecimal() for value in given) or len(set(given)) < len(given):
        raise UsageError(f"--classes {text!r}: give every name its own whole number, as in background=0,cell=255")
    return Classes(names, tuple(int(value) for value in given))


def found_classes(rows: Sequence[Row]) -> Classes:
    """The classes that annotations name, sorted, after the background; `DEFAULT_NAMES` where all masks are images.

    Raises
    ------
    ManifestError : a file of annotations cannot be read.
    """
    drawn = [row for row in rows if row.mask is not None and is_drawn(row.mask)]
    names = {name for row in drawn for name, polygons in _annotations(row) if polygons and not _is_ignored(name)}
    names -= {"", DEFAULT_NAMES[0]}
    return Classes((DEFAULT_NAMES[0], *sorted(names))) if names else Classes(DEFAULT_NAMES)


def is_drawn(path: Path) -> bool:
    """Whether a mask is a file of annotations, not an image."""
    return path.suffix.lower() in GEOJSON


def open_mask(row: Row, classes: Classes, size0: Size, origin: Point = ORIGIN) -> Mask:
    """The labels of a row; `origin` is the corner of the slide's bounds, where the coordinates of GeoJSON begin.

    Raises
    ------
    ManifestError : the row has no mask, it cannot be read, is of another shape than the slide, or holds a class that is
        not known; the message names the row and the file.
    """
    if row.mask is None:
        raise ManifestError(f"row {row.number}: there is no mask, column `mask`")
    mask = (
        _drawn_mask(row, classes, size0, origin) if is_drawn(row.mask) else _image_mask(row, row.mask, classes, size0)
    )
    return RegionMask(mask, read_regions(row.regions, origin).tissue) if row.regions else mask


def _image_mask(row: Row, path: Path, classes: Classes, size0: Size) -> ImageMask:
    where = f"row {row.number}: mask {path}"
    values = _values(path, where)
    rows, columns = values.shape
    if abs(rows * size0.width - columns * size0.height) > max(size0):  # within a pixel of the same shape
        raise ManifestError(
            f"{where} is {columns} x {rows} px and the image {size0.width} x {size0.height}: it is no mask of the whole"
        )
    if classes.counts_objects:
        several = values.max(initial=0) > values[values > 0].min(initial=np.iinfo(values.dtype).max)
        return ImageMask((values > 0).astype(np.uint8), values.astype(np.int32) if several else None, size0)
    wanted = classes.values or tuple(range(len(classes.names)))
    numbers = np.full(int(values.max(initial=0)) + 1, UNLABELLED, np.uint8)
    for index, value in enumerate(wanted):
        if value < len(numbers):
            numbers[value] = index
    found = numbers[values]
    if (found == UNLABELLED).any():
        strange = sorted(set(values[found == UNLABELLED].ravel().tolist()))
        raise ManifestError(
            f"{where} holds the values {strange[:5]}, which no class has; known are "
            f"{', '.join(f'{name}={value}' for name, value in zip(classes.names, wanted, strict=True))} (--classes)"
        )
    return ImageMask(found, None, size0)


def _drawn_mask(row: Row, classes: Classes, size0: Size, origin: Point) -> PolygonMask:
    by_class: list[list[Polygon]] = [[] for _ in classes.names]
    ignored: list[Polygon] = []
    index = {name.casefold(): number for number, name in enumerate(classes.names)}
    for name, polygons in _annotations(row, origin):
        if _is_ignored(name):
            ignored += polygons
        elif name.casefold() in index:
            by_class[index[name.casefold()]] += polygons
        elif name == "" and len(classes.names) == 2:
            by_class[1] += polygons
        elif polygons:
            raise ManifestError(
                f"row {row.number}: {row.mask} has polygons of class {name or '(none)'!r}; known are "
                f"{', '.join(classes.names)} (--classes)"
            )
    return PolygonMask(by_class, ignored, size0)


def _annotations(row: Row, origin: Point = ORIGIN) -> list[tuple[str, list[Polygon]]]:
    try:
        return classified_polygons(row.mask or Path(), origin)
    except TissueError as error:
        raise ManifestError(f"row {row.number}: {error}") from error


def _is_ignored(name: str) -> bool:
    return name.casefold().startswith(IGNORE)


def _values(path: Path, where: str) -> NDArray[Any]:
    """Values of a mask image, (rows, columns); of a palette the numbers, not the colours."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ManifestError(f"{where}: more than {MAX_PIXELS:,} pixels; draw it as GeoJSON polygons")
            values = np.asarray(image)
    except ManifestError:
        raise
    except Exception as error:  # Pillow raises nearly anything on damaged files
        found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # TIFFs that Pillow does not know
        if found is None:
            raise ManifestError(f"{where} cannot be read: {error}") from error
        values = np.asarray(found)
    if values.ndim == 3:
        if (values[..., :1] != values[..., :3]).any():
            raise ManifestError(f"{where} is a colour picture; a mask holds one number a pixel")
        values = values[..., 0]
    if values.dtype.kind not in "bui":
        raise ManifestError(f"{where} holds {values.dtype} values; a mask holds whole numbers")
    if values.min(initial=0) < 0:
        raise ManifestError(f"{where} holds numbers below 0")
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def _filled(polygons: Sequence[Polygon], window: Window) -> NDArray[np.bool_]:
    """Pixels of a window whose middle lies in a polygon."""
    origin = np.array((window.x0, window.y0))
    extent = np.array((window.width * window.downsample_x, window.height * window.downsample_y))
    near = [
        Polygon(polygon.exterior - origin, tuple(hole - origin for hole in polygon.holes))
        for polygon in polygons
        if (polygon.exterior.min(axis=0) < origin + extent).all() and (polygon.exterior.max(axis=0) > origin).all()
    ]
    frame = Frame(Size(window.width, window.height), window.downsample_x, window.downsample_y)
    # The extent is given a pixel more than it has: the last pixels are whole ones here, not cut off by a slide's edge.
    return fill_polygons(near, frame, Size(int(extent[0]) + 2, int(extent[1]) + 2))
