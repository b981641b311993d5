"""Fields for `cellularity-he`: nuclei of annotated images, composed so that one hot spot determines the label.

The source (BBBC038 / Data Science Bowl 2018, rows `purple_stain`, CC0) gives nucleus masks but neither a pixel size nor
a constant magnification. Every image is therefore rescaled so that its median nucleus has the equivalent diameter
`NUCLEUS_UM`, which is 16 pixels at `MPP`. This assumption, stated in the model's card, is the
only source of the model's mpp.

A field is a mosaic of crops with soft borders, some of them bare glass. Its label follows from the nucleus mask of the
finished field alone: the largest share of area covered by nuclei in any window of `WINDOW` pixels (64 µm). Colours
are sampled for each field (haematoxylin between blue and purple, eosin from none to heavy, with stroma-like
texture and red blood), because the source is far more uniform than real slides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.recipes.fields import Field, read_index, read_rgb
from wsi_attn.slide import UInt8Array

DATA = Path("segment/dsb2018")
LABELS = ("dense", "moderate", "sparse")
MPP = 0.5
NUCLEUS_UM = 8.0
WINDOW = 128
MODERATE_FROM, DENSE_FROM = 0.20, 0.35
"""Shares of the window's area that nuclei cover, where the class begins."""

CELL = 176
"""Side of a mosaic piece, larger than the window so that a hot spot fits into one piece."""

FEATHER = 16
"""Pixels over which neighbouring pieces blend."""

FIELDS = {"train": 1600, "val": 150, "test": 240}

SIDES = {"train": (1, 1, 1, 2, 2, 3, 4, 5, 6), "val": (1, 2, 3, 4, 5, 6), "test": (3, 4, 5, 6, 7)}
"""Pieces along a side, drawn from these: small fields show in training what a hot spot is, large ones that it must be
found; the test part has large ones alone."""

VALIDATION_IMAGES = 6
"""Source images held out of training to choose the epoch; the data set's `val` rows are the test part."""

ABOUT = (
    "Cellularity of an H&E slide or field: `sparse`, `moderate` or `dense`, and the location of nuclear hot spots. The "
    "label describes the densest hot spot, not the average.",
    f"A hot spot is the 64 x 64 µm window with the largest share of area covered by nuclei: sparse below "
    f"{MODERATE_FROM:.0%}, moderate below {DENSE_FROM:.0%}, dense otherwise.",
    "Data: nuclei and their masks from BBBC038 (Data Science Bowl 2018, stage 1, corrected), the purple-stained "
    "images; CC0 1.0. 40 images of 320 x 256 px: 26 for training, 6 for validation, 8 for testing. Fields are "
    "mosaics of crops of these images with random colours and synthetic stroma, cytoplasm and glass; the fields of a "
    "split use only the images of that split. The intervals resample the images that contain the hot spots; they are "
    "wide because the test set has few such images.",
    f"Pixel size: the source does not record it. Every image was scaled so that its median nucleus measures "
    f"{NUCLEUS_UM:g} µm at {MPP:g} µm/px. The resolution of the model depends on this assumption.",
)

NOT_FOR = (
    "The model does not count cells, does not grade tumours and does not identify the type of the dense cells. It was "
    "trained on synthetic mosaics of very few source images from one laboratory: expect shifts with other stains, "
    "scanners and tissues. Thick, folded or blurred tissue and dark pigment can be mistaken for nuclei. Do not use it "
    "for immunohistochemistry, fluorescence or cytology.",
)

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """An annotated image at the common scale: float32 optical density (rows, columns, 3), nuclei (rows, columns)."""

    name: str
    density: FloatArray
    nuclei: FloatArray


@dataclass(frozen=True)
class SourceCrop:
    """A crop of a source with `CELL + 2 * FEATHER` pixels per side, and the nuclear share of its densest window."""

    source: str
    density: FloatArray
    nuclei: FloatArray
    peak: float


def make_fields(data: Path, seed: int) -> Iterator[Field]:
    """Yield all fields of the recipe from `segment/dsb2018` in `data`."""
    generator = np.random.default_rng(seed)
    parts = _sources(data / DATA, generator)
    for split, count in FIELDS.items():
        for index in range(count):
            yield assemble(f"{split}_{index:04d}", split, parts[split], LABELS[index % len(LABELS)], generator)


def densest_window(nuclei: NDArray[np.float32]) -> tuple[float, FloatArray]:
    """Return the largest nuclear share of any window inside, and the share around every pixel (reflected at the
    border).
    """
    share = cv2.boxFilter(nuclei, -1, (WINDOW, WINDOW), borderType=cv2.BORDER_REFLECT)
    half = WINDOW // 2
    inner = share[half : max(half + 1, share.shape[0] - half), half : max(half + 1, share.shape[1] - half)]
    return float(inner.max()), np.asarray(share, np.float32)


def label_of(peak: float) -> str:
    """Return the class of a field from its densest window."""
    return "dense" if peak >= DENSE_FROM else "moderate" if peak >= MODERATE_FROM else "sparse"


def assemble(name: str, split: str, sources: Sequence[Source], wanted: str, generator: np.random.Generator) -> Field:
    """Compose a field planned as `wanted`; its label follows from the finished mask."""
    rows, columns = (int(count) for count in generator.choice(SIDES[split], 2))
    ceiling = {"sparse": MODERATE_FROM, "moderate": DENSE_FROM, "dense": 1.0}[wanted]
    quiet_ceiling = generator.uniform(0.05, min(0.3, ceiling))
    glass = generator.uniform(0, 0.6)
    hot = set(generator.permutation(rows * columns)[: generator.integers(1, 3)].tolist())
    extent = (rows * CELL + 2 * FEATHER, columns * CELL + 2 * FEATHER)
    flaky = generator.uniform(0, 0.5)
    flakes = np.zeros(extent, np.float32)
    density, nuclei, tissue = (
        np.zeros((*extent, 3), np.float32),
        np.zeros(extent, np.float32),
        np.zeros(extent, np.float32),
    )
    hottest = ("none", -1.0)
    for cell in range(rows * columns):
        y, x = (cell // columns) * CELL, (cell % columns) * CELL
        place = np.s_[y : y + CELL + 2 * FEATHER, x : x + CELL + 2 * FEATHER]
        if cell not in hot and generator.random() < glass:
            flakes[place] += FEATHERED * (generator.random() < flaky)
            continue
        floor = {"sparse": 0.0, "moderate": MODERATE_FROM, "dense": DENSE_FROM}[wanted] if cell in hot else 0.0
        piece = _draw(sources, floor, ceiling if cell in hot else quiet_ceiling, generator)
        hottest = max(hottest, (piece.source, piece.peak), key=lambda found: found[1])
        density[place] += piece.density * FEATHERED[..., None]
        nuclei[place] += piece.nuclei * FEATHERED
        tissue[place] += FEATHERED
    pixels = colour(density, nuclei, tissue, flakes, generator)
    peak, share = densest_window((nuclei > 0.5).astype(np.float32))
    return Field(name, pixels, label_of(peak), hottest[0], split, MPP, share >= 0.8 * peak)


def colour(
    density: FloatArray, nuclei: FloatArray, tissue: FloatArray, flakes: FloatArray, generator: np.random.Generator
) -> UInt8Array:
    """Stain a field: random haematoxylin and eosin colours, stroma, distractors, debris, glass and noise."""
    haematoxylin = _unit(np.array([0.65, 0.70, 0.29]) + generator.normal(0, 0.08, 3))
    eosin = _unit(np.array([0.10, 0.95, 0.30]) + generator.normal(0, [0.06, 0.05, 0.10]))
    amount = density.mean(axis=2) * np.sqrt(3)
    dyed = amount[..., None] * haematoxylin if generator.random() < 0.75 else density.copy()
    inside = np.minimum(tissue, 1) * (1 - 0.6 * nuclei)
    dyed += (inside * _stroma(amount.shape, generator))[..., None] * eosin
    dyed += inside[..., None] * _lures(amount.shape, haematoxylin, eosin, generator)
    dyed += flakes[..., None] * _shreds(amount.shape, haematoxylin, eosin, generator)
    dyed *= generator.uniform(0.6, 1.5)
    glass = generator.uniform(232, 252) + generator.normal(0, 2.0, 3)
    sharpness = generator.choice([0.0, 0.6, 1.0])
    light = glass * np.exp(-dyed)
    if sharpness:
        light = cv2.GaussianBlur(light, (0, 0), float(sharpness))
    return np.asarray(np.clip(np.rint(light + generator.normal(0, 2.0, light.shape)), 0, 255), np.uint8)


def _stroma(shape: tuple[int, ...], generator: np.random.Generator) -> FloatArray:
    """Eosin of connective tissue, from none to heavy: cloudy or fibrous, with clefts in some fields."""
    fibre = float(generator.choice([1.0, 4.0, 10.0]))
    fine, coarse = _noise(shape, 1.2, generator, fibre), _noise(shape, 20.0, generator)
    cloud = 1 + generator.uniform(0.1, 0.6) * fine + generator.uniform(0.1, 0.4) * coarse
    if generator.random() < 0.4:
        cloud *= np.clip(1.5 + _noise(shape, 3.0, generator, fibre), 0, 1)
    return np.asarray(np.clip(generator.uniform(0, 0.8) * cloud, 0, None), np.float32)


def _shreds(
    shape: tuple[int, ...],
    haematoxylin: NDArray[np.float64],
    eosin: NDArray[np.float64],
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Optical density of keratin, torn collagen and ink on bare glass: dark, sharp, and without a nucleus."""
    sigma, fibre = float(generator.choice([1.5, 3.0, 5.0])), float(generator.choice([2.0, 5.0, 12.0]))
    cover = np.clip(2 * (_noise(shape, sigma, generator, fibre) - generator.uniform(-0.2, 1.2)), 0, 1)
    purple = generator.uniform(0, 0.8)
    dye = purple * haematoxylin + (1 - purple) * eosin
    if generator.random() < 0.25:
        dye = generator.uniform(0, 1, 3)
    return np.asarray((cover * generator.uniform(0.4, 2.0))[..., None] * _unit(dye))


def _lures(
    shape: tuple[int, ...],
    haematoxylin: NDArray[np.float64],
    eosin: NDArray[np.float64],
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Optical density of distractors for a counter of dark pixels: basophilic cytoplasm, keratin, red blood."""
    density = np.zeros((*shape, 3))
    for kind in ("cytoplasm", "keratin", "blood"):
        if generator.random() < 0.5:
            continue
        if kind == "cytoplasm":
            sigma, fibre, strongest, purple = 40.0, 1.0, 0.8, generator.uniform(0, 1)
        elif kind == "keratin":
            sigma, fibre = float(generator.choice([1.5, 3.0, 6.0])), float(generator.choice([4.0, 8.0, 16.0]))
            strongest, purple = 2.0, generator.uniform(0, 0.7)
        else:
            sigma, fibre, strongest, purple = 10.0, 1.0, 2.0, generator.uniform(0, 0.2)
        cover = np.clip(_noise(shape, sigma, generator, fibre) - generator.uniform(-0.3, 2.0), 0, 1)
        dye = _unit(purple * haematoxylin + (1 - purple) * eosin)
        density += (cover * generator.uniform(0.2, strongest))[..., None] * dye
    return density


def _sources(folder: Path, generator: np.random.Generator) -> dict[str, list[Source]]:
    rows = [row for row in read_index(folder) if row["label"] == "purple_stain"]
    learning = [row for row in rows if row["split"] == "train"]
    held = set(generator.permutation(len(learning))[:VALIDATION_IMAGES].tolist())
    parts: dict[str, list[Source]] = {"train": [], "val": [], "test": []}
    for index, row in enumerate(learning):
        parts["val" if index in held else "train"].append(_load(folder, row))
    parts["test"] = [_load(folder, row) for row in rows if row["split"] == "val"]
    return parts


def _load(folder: Path, row: dict[str, str]) -> Source:
    """Load an image at the common scale; its brightest percent counts as glass."""
    pixels = read_rgb(folder / row["path"])
    instances = np.asarray(cv2.imread(str(folder / row["mask"]), cv2.IMREAD_UNCHANGED))
    areas = np.unique(instances[instances > 0], return_counts=True)[1]
    diameter = 2 * np.sqrt(np.median(areas) / np.pi)
    scale = NUCLEUS_UM / MPP / diameter
    white = np.percentile(pixels.reshape(-1, 3), 99, axis=0)
    density = np.clip(-np.log((pixels + 1.0) / (white + 1.0)), 0, None).astype(np.float32)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    nuclei = cv2.resize((instances > 0).astype(np.float32), size, interpolation=interpolation)
    return Source(Path(row["path"]).stem, cv2.resize(density, size, interpolation=interpolation), nuclei)


def _draw(sources: Sequence[Source], floor: float, ceiling: float, generator: np.random.Generator) -> SourceCrop:
    """Return a random crop whose densest window lies between the bounds, or the closest of several tries."""
    best: SourceCrop | None = None
    for _ in range(24):
        piece = _crop(sources[int(generator.integers(len(sources)))], generator)
        miss = max(floor - piece.peak, piece.peak - ceiling, 0)
        if best is None or miss < max(floor - best.peak, best.peak - ceiling, 0):
            best = piece
        if miss == 0:
            break
    assert best is not None  # noqa: S101 - at least one try was made
    return best


def _crop(source: Source, generator: np.random.Generator) -> SourceCrop:
    """Return a crop with random orientation, scale and nuclear contrast."""
    side = CELL + 2 * FEATHER
    angle, mirror = generator.uniform(0, 2 * np.pi), generator.choice([-1.0, 1.0])
    stretch = np.exp(-generator.normal(0, 0.25) + generator.normal(0, 0.08) * np.array([1.0, -1.0]))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag(stretch * (mirror, 1.0))  # from the crop to the source
    rows, columns = source.nuclei.shape
    centre = generator.uniform(0, 1, 2) * (columns, rows)
    affine = np.column_stack([matrix, centre - matrix @ np.full(2, side / 2)])
    options = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REFLECT}
    density = cv2.warpAffine(source.density, affine, (side, side), **options)
    nuclei = np.asarray(cv2.warpAffine(source.nuclei, affine, (side, side), **options), np.float32)
    inside, outside = np.exp(generator.normal(0, 0.25)), np.exp(generator.normal(-0.2, 0.4))
    contrast = nuclei * inside + (1 - nuclei) * outside
    return SourceCrop(source.name, density * contrast[..., None].astype(np.float32), nuclei, densest_window(nuclei)[0])


def _noise(shape: tuple[int, ...], sigma: float, generator: np.random.Generator, fibre: float = 1.0) -> FloatArray:
    """Smooth noise with mean 0 and standard deviation 1, stretched `fibre` times along a random direction.

    Coarse noise is sampled at low resolution and enlarged.
    """
    step = max(1, int(sigma / 2))
    side = int(math.hypot(*shape) / step) + 2
    drawn = generator.standard_normal((side, side)).astype(np.float32)
    smooth = cv2.GaussianBlur(drawn, (0, 0), sigmaX=fibre * sigma / step, sigmaY=sigma / step)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(generator.uniform(0, 180)), step)
    turn[:, 2] += np.array([shape[1], shape[0]]) / 2 - side / 2
    large = cv2.warpAffine(smooth / (smooth.std() + 1e-6), turn, (shape[1], shape[0]), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(large, np.float32)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = np.clip(vector, 0.02, None)
    return np.asarray(positive / np.linalg.norm(positive))


def _feathered() -> FloatArray:
    """Weights of a crop: 1 inside, decreasing linearly over the shared border, so that neighbours sum to 1."""
    ramp = np.linspace(0, 1, 2 * FEATHER, endpoint=False, dtype=np.float32) + 0.25 / FEATHER
    line = np.concatenate([ramp, np.ones(CELL - 2 * FEATHER, np.float32), ramp[::-1]])
    return np.outer(line, line)


FEATHERED = _feathered()
