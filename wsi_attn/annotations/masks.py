"""Segmentation labels: a class for every pixel of a row, from a mask image or from annotations.

A mask image covers the whole slide. With two classes every nonzero value is the second class, so that binary masks and
instance masks (8 or 16 bits, one number per object) need no conversion; with more classes the pixel value is the index
of the class, or the value set by `--classes`. A GeoJSON file as exported by QuPath has polygons whose
classifications are class names; uncovered pixels are background; pixels under a polygon classified as `Ignore` and
pixels outside the row's `regions` have no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from shapely import Polygon, box

from wsi_attn.annotations.geojson import Annotation, read_annotations
from wsi_attn.annotations.polygons import fill_polygons
from wsi_attn.annotations.tissue import read_regions
from wsi_attn.errors import ManifestError, TissueError, UsageError
from wsi_attn.geometry import ORIGIN, Frame, Point, Size
from wsi_attn.slide import UInt8Array
from wsi_attn.slides.image_reader import MAX_PIXELS
from wsi_attn.tissue.settings import GEOJSON_SUFFIXES

MaskImage = NDArray[np.integer] | NDArray[np.bool_]

UNLABELLED = 255
"""Class value of unlabelled pixels; there are at most 255 classes."""

DEFAULT_NAMES = ("background", "foreground")
IGNORE = "ignore"
"""Case-insensitive prefix of class names whose polygons remove the label, as QuPath's `Ignore*`."""


class AnnotatedImage(Protocol):
    """An image with annotations, such as a row of a manifest."""

    @property
    def number(self) -> int:
        """Row number, for messages."""
        ...

    @property
    def path(self) -> Path:
        """The image."""
        ...

    @property
    def boxes(self) -> str:
        """Boxes as text, or the path of a VOC, COCO or GeoJSON file; empty if there are none."""
        ...

    @property
    def mask(self) -> Path | None:
        """Mask image or GeoJSON file."""
        ...

    @property
    def regions(self) -> Path | None:
        """GeoJSON file; everything outside its polygons is ignored."""
        ...


@dataclass(frozen=True)
class Classes:
    """Class names, background first, and the value of each in a mask image.

    Without `values`, every nonzero value is the second of two classes, or the value is the index of the class.
    """

    names: tuple[str, ...]
    values: tuple[int, ...] = ()

    @property
    def counts_objects(self) -> bool:
        """Return whether values of a mask image are object numbers rather than classes."""
        return not self.values and len(self.names) == 2


class Window(NamedTuple):
    """Raster over a part of a slide: corner in level-0 pixels, size, and level-0 pixels per pixel."""

    x0: float
    y0: float
    width: int
    height: int
    downsample_x: float
    downsample_y: float


class Mask(Protocol):
    """Labels of one row."""

    def read(self, window: Window) -> UInt8Array:
        """Read the class at each pixel centre, uint8 (height, width); `UNLABELLED` outside the slide and
        without a label.
        """
        ...

    def objects(self, window: Window) -> NDArray[np.int32] | None:
        """Read the object number of each pixel, int32 (height, width), 0 for none.

        None if objects are not distinguished; connected pixels of a class then form one object.
        """
        ...

    def place(self, generator: np.random.Generator) -> tuple[float, float] | None:
        """Draw a random labelled foreground location in level-0 pixels; None if there is none."""
        ...


class ImageMask:
    """Labels from an image of the whole slide.

    Parameters
    ----------
    classes
        uint8 (rows, columns).
    numbers
        int32 (rows, columns), object numbers, or None.
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
        """See `Mask.place`; all classes are equally likely."""
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
        """Return rows and columns of the mask at the pixel centres, and which lie inside."""
        x = np.floor((window.x0 + (np.arange(window.width) + 0.5) * window.downsample_x) * self._scale_x)
        y = np.floor((window.y0 + (np.arange(window.height) + 0.5) * window.downsample_y) * self._scale_y)
        height, width = self._classes.shape
        inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None]
        rows, columns = y.clip(0, height - 1).astype(np.int64), x.clip(0, width - 1).astype(np.int64)
        return rows, columns, np.asarray(inside)


@dataclass(frozen=True, eq=False)
class PolygonMask:
    """Labels from polygons; where they overlap, the later class wins.

    Attributes
    ----------
    polygons
        Polygons of each class, background first.
    ignored
        Polygons that remove the label of all pixels they cover.
    size0
        Width and height of the slide.
    """

    polygons: Sequence[Sequence[Polygon]]
    ignored: Sequence[Polygon]
    size0: Size

    def read(self, window: Window) -> UInt8Array:
        """See `Mask.read`."""
        classes = np.zeros((window.height, window.width), np.uint8)
        for index, polygons in enumerate(self.polygons):
            classes[_filled(polygons, window)] = index
        classes[~_filled([box(0, 0, *self.size0)], window) | _filled(self.ignored, window)] = UNLABELLED
        return classes

    def objects(self, window: Window) -> NDArray[np.int32] | None:
        """See `Mask.objects`; each polygon is one object."""
        numbers = np.zeros((window.height, window.width), np.int32)
        for number, polygon in enumerate((polygon for part in self.polygons[1:] for polygon in part), 1):
            numbers[_filled([polygon], window)] = number
        return numbers

    def place(self, generator: np.random.Generator) -> tuple[float, float] | None:
        """See `Mask.place`; the location lies in the bounding box of a polygon, and all classes are equally likely."""
        present = [polygons for polygons in self.polygons[1:] if polygons]
        if not present:
            return None
        polygons = present[int(generator.integers(len(present)))]
        left, top, right, bottom = polygons[int(generator.integers(len(polygons)))].bounds
        x, y = generator.uniform((left, top), (right, bottom)).tolist()
        return x, y


class RegionMask:
    """Labels of another mask, restricted to regions."""

    def __init__(self, mask: Mask, regions: Sequence[Polygon]) -> None:
        self._mask, self._regions = mask, regions

    def read(self, window: Window) -> UInt8Array:
        """See `Mask.read`."""
        classes = self._mask.read(window)
        classes[~_filled(self._regions, window)] = UNLABELLED
        return classes

    def objects(self, window: Window) -> NDArray[np.int32] | None:
        """See `Mask.objects`; objects are whole, but only their labelled pixels are compared."""
        return self._mask.objects(window)

    def place(self, generator: np.random.Generator) -> tuple[float, float] | None:
        """See `Mask.place`; the location may lie outside the regions."""
        return self._mask.place(generator)


def parse_classes(text: str) -> Classes:
    """Parse `--classes`: comma-separated names, background first, all with `=VALUE` or none.

    Raises
    ------
    UsageError : fewer than two names, a repeated name, or values that are missing, repeated or not integers.
    """
    parts = [part.strip().partition("=") for part in text.split(",")]
    names = tuple(name.strip() for name, _, _ in parts)
    if len(names) < 2 or len(set(names)) < len(names) or not all(names) or len(names) > UNLABELLED:
        raise UsageError(f"--classes takes at least two different names, background first, not {text!r}")
    given = [value.strip() for _, equals, value in parts if equals]
    if not given:
        return Classes(names)
    if len(given) < len(names) or not all(value.isdecimal() for value in given) or len(set(given)) < len(given):
        raise UsageError(f"--classes {text!r}: every name needs its own integer value, as in background=0,cell=255")
    return Classes(names, tuple(int(value) for value in given))


def found_classes(rows: Sequence[AnnotatedImage]) -> Classes:
    """Return background and the sorted classes of the annotations; `DEFAULT_NAMES` if all masks are images.

    Raises
    ------
    ManifestError : an annotation file cannot be read.
    """
    drawn = [row for row in rows if row.mask is not None and is_drawn(row.mask)]
    names = {
        each.class_name
        for row in drawn
        for each in _annotations(row)
        if each.polygons and not _is_ignored(each.class_name)
    }
    names -= {"", DEFAULT_NAMES[0]}
    return Classes((DEFAULT_NAMES[0], *sorted(names))) if names else Classes(DEFAULT_NAMES)


def is_drawn(path: Path) -> bool:
    """Return whether a mask is an annotation file and not an image."""
    return path.name.lower().endswith(GEOJSON_SUFFIXES)


def open_mask(row: AnnotatedImage, classes: Classes, size0: Size, origin: Point = ORIGIN) -> Mask:
    """Open the labels of a row; `origin` is the corner of the slide's bounds, the origin of GeoJSON coordinates.

    Raises
    ------
    ManifestError : the mask is missing, cannot be read, differs in shape from the slide, or contains an unknown
        class; the message names the row and the file.
    """
    if row.mask is None:
        raise ManifestError(f"row {row.number}: the column `mask` is missing or empty")
    mask = (
        _drawn_mask(row, classes, size0, origin) if is_drawn(row.mask) else _image_mask(row, row.mask, classes, size0)
    )
    return RegionMask(mask, read_regions(row.regions, origin).tissue) if row.regions else mask


def _image_mask(row: AnnotatedImage, path: Path, classes: Classes, size0: Size) -> ImageMask:
    where = f"row {row.number}: mask {path}"
    values = _one_channel(read_mask_image(path, where, size0), where)
    if classes.counts_objects:
        numbered = values[values > 0]
        several = numbered.size > 0 and numbered.min() < numbered.max()
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
            f"{where} has the values {strange[:5]}, which belong to no class; the classes are "
            f"{', '.join(f'{name}={value}' for name, value in zip(classes.names, wanted, strict=True))} (--classes)"
        )
    return ImageMask(found, None, size0)


def _drawn_mask(row: AnnotatedImage, classes: Classes, size0: Size, origin: Point) -> PolygonMask:
    by_class: list[list[Polygon]] = [[] for _ in classes.names]
    ignored: list[Polygon] = []
    index = {name.casefold(): number for number, name in enumerate(classes.names)}
    for each in _annotations(row, origin):
        name, polygons = each.class_name, each.polygons
        if _is_ignored(name):
            ignored += polygons
        elif name.casefold() in index:
            by_class[index[name.casefold()]] += polygons
        elif name == "" and len(classes.names) == 2:
            by_class[1] += polygons
        elif polygons:
            raise ManifestError(
                f"row {row.number}: {row.mask} has polygons of class {name or '(none)'!r}; the classes are "
                f"{', '.join(classes.names)} (--classes)"
            )
    return PolygonMask(by_class, ignored, size0)


def _annotations(row: AnnotatedImage, origin: Point = ORIGIN) -> list[Annotation]:
    try:
        return read_annotations(row.mask or Path(), origin)
    except TissueError as error:
        raise ManifestError(f"row {row.number}: {error}") from error


def _is_ignored(name: str) -> bool:
    return name.casefold().startswith(IGNORE)


def read_mask_image(path: Path, where: str, size0: Size) -> MaskImage:
    """Read a mask image of a slide, (rows, columns) or (rows, columns, channels); palette images give indices.

    Parameters
    ----------
    where
        Start of messages.

    Raises
    ------
    ManifestError : the file cannot be read, is too large or does not have the aspect ratio of the slide.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ManifestError(f"{where}: more than {MAX_PIXELS:,} pixels; use GeoJSON polygons instead")
            values = np.asarray(image)
    except ManifestError:
        raise
    except Exception as error:  # Pillow raises many exception types on damaged files.
        found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # TIFFs that Pillow cannot decode.
        if found is None:
            raise ManifestError(f"{where} cannot be read: {error}") from error
        values = np.asarray(found)
    rows, columns = values.shape[:2]
    if abs(rows * size0.width - columns * size0.height) > max(size0):  # Same aspect ratio to within a pixel.
        raise ManifestError(
            f"{where} is {columns} x {rows} px but the image is {size0.width} x {size0.height}"
            ": a mask must cover the whole image"
        )
    return values


def _one_channel(values: MaskImage, where: str) -> MaskImage:
    """Return the integer values of a mask whose channels are equal."""
    if values.ndim == 3:
        if (values[..., :1] != values[..., :3]).any():
            raise ManifestError(f"{where} is a colour image; a mask must have one channel")
        values = values[..., 0]
    if values.dtype.kind not in "bui":
        raise ManifestError(f"{where} has {values.dtype} values; a mask must have integer values")
    if values.min(initial=0) < 0:
        raise ManifestError(f"{where} has negative values")
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def _filled(polygons: Sequence[Polygon], window: Window) -> NDArray[np.bool_]:
    """Return the pixels of a window whose centre lies in a polygon."""
    width, height = window.width * window.downsample_x, window.height * window.downsample_y
    area = box(window.x0, window.y0, window.x0 + width, window.y0 + height)
    near = [
        shapely.transform(polygon, lambda corners: corners - (window.x0, window.y0))
        for polygon in polygons
        if shapely.intersects(shapely.box(*polygon.bounds), area)
    ]
    frame = Frame(Size(window.width, window.height), window.downsample_x, window.downsample_y)
    # The extent is one pixel larger, so that the last pixels are whole and not cut off at the edge of the slide.
    return fill_polygons(near, frame, Size(int(width) + 2, int(height) + 2))
