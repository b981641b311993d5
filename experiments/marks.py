"""The constructed task: the class of a megapixel image is the fine pattern of one to three small marks in it.

    python experiments/marks.py --data SHARED_DATA --work FOLDER [--train 240] [--test 120]
        [--slides 6]

Backgrounds are random crops of a real H&E slide (`slides/crc01_he_left.tif` under --data): its upper part for training,
its lower part for testing. A mark is a square of 16 px, two tones, half of the pixels each. Its pattern is the class:
2 px stripes, or 2 px checks. In both, each block of 4 x 4 px holds eight pixels of either tone, and marks lie on
multiples of 4 px: a view that averages blocks of 4, 8 or 16 px is the same to the pixel whichever the class. The marks
can be seen in it; what they say cannot.

Training images are fields of 320 to 448 px, small so that places drawn by chance meet a mark before the attention has
learned anything; test images are of 1 to 2.4 megapixels. `--slides` writes the same marks into slides of test tissue,
four hundred megapixels each, which the models trained on the fields answer too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
from arms import Task, add_common_options, attention_arms, join_boxes, run_task, write_manifest

MARK, BLOCK, TILE = 16, 4, 512
TONES = np.array([[0, 50, 20], [190, 255, 200]], np.uint8)
"""Dark and pale green, a colour that the stain does not have: marks are easy to find and hard to read."""
LABELS = ("checks", "stripes")
MPP = 0.5
"""Said of images and slides alike, so that one model reads both."""
BACKGROUND = "slides/crc01_he_left.tif"


SHARED = f"--mpp {MPP} --coarse-factor 8 --batch-size 4 --learning-rate 0.002 --colour 0.3 --prior none --epochs 40"
PATCHES = "--patch-size 64 --instances 20 --entropy-weight 0 --guidance-weight 1"
"""Options of training. Without guidance the gate of the patches learns to answer and the attention stays flat."""


def mark(label: str, generator: np.random.Generator) -> np.ndarray:
    """One mark in a random phase and, for stripes, direction: uint8 (16, 16, 3)."""
    y, x = np.mgrid[:MARK, :MARK] // 2
    phase, upright = generator.integers(0, 2, 2)
    stripes = x if upright else y
    return TONES[((x + y if label == "checks" else stripes) + phase) % 2]


def place_marks(
    pixels: np.ndarray, label: str, count: int, generator: np.random.Generator
) -> list[tuple[int, int, int, int]]:
    """Draw marks into the picture, apart from each other; gives their boxes x1 y1 x2 y2."""
    height, width = pixels.shape[:2]
    boxes: list[tuple[int, int, int, int]] = []
    while len(boxes) < count:
        x, y = (int(generator.integers(MARK // BLOCK, (side - 2 * MARK) // BLOCK)) * BLOCK for side in (width, height))
        if all(max(abs(x - box[0]), abs(y - box[1])) > 4 * MARK for box in boxes):
            pixels[y : y + MARK, x : x + MARK] = mark(label, generator)
            boxes.append((x, y, x + MARK, y + MARK))
    return boxes


class Tissue:
    """Random crops of the upper (training) or lower (test) part of a real slide, tissue for the most part."""

    def __init__(self, path: Path, split: str) -> None:
        with tifffile.TiffFile(path) as file:
            pixels = file.series[0].levels[0].asarray()
        middle = len(pixels) // 2
        self.pixels = pixels[:middle] if split == "train" else pixels[middle:]

    def crop(self, side: int, generator: np.random.Generator) -> np.ndarray:
        """uint8 (side, side, 3), in one of eight orientations."""
        for _ in range(50):
            y, x = (int(generator.integers(0, extent - side)) for extent in self.pixels.shape[:2])
            found = self.pixels[y : y + side, x : x + side]
            small = found[::16, ::16].astype(int)
            if np.mean(small.max(axis=-1) - small.min(axis=-1) > 25) > 0.5:
                break
        turned = np.rot90(found, int(generator.integers(4)))
        return np.ascontiguousarray(turned[:, ::-1] if generator.integers(2) else turned)


def write_images(
    folder: Path, data: Path, counts: dict[str, int], sides: dict[str, tuple[int, int]], seed: int
) -> Path:
    """Images and `manifest.csv`; one that is there is kept."""
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        return manifest
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for part, (split, count) in enumerate(counts.items()):
        tissue = Tissue(data / BACKGROUND, split)
        for index in range(count):
            generator = np.random.default_rng([seed, part, index])
            label = LABELS[index % len(LABELS)]
            least, most = sides[split]
            side = int(generator.integers(least // 64, most // 64 + 1)) * 64
            pixels = tissue.crop(side, generator)
            boxes = place_marks(pixels, label, int(generator.integers(1, 4)), generator)
            name = f"images/{split}-{index:04}.png"
            cv2.imwrite(str(folder / name), pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
            rows.append(row_of(name, label, split, boxes))
    return write_manifest(manifest, rows)


def row_of(name: str, label: str, split: str, boxes: list[tuple[int, int, int, int]]) -> dict[str, object]:
    """One row of the manifest."""
    return {"path": name, "label": label, "patient": name, "split": split, "mpp": MPP, "boxes": join_boxes(boxes)}


def write_slides(folder: Path, data: Path, count: int, side: int, seed: int) -> Path:
    """Tiled pyramidal TIFFs of test tissue with marks, and their manifest; what is there is kept."""
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        return manifest
    folder.mkdir(parents=True, exist_ok=True)
    tissue = Tissue(data / BACKGROUND, "test")
    rows = []
    for index in range(count):
        generator = np.random.default_rng([seed, 2, index])
        label = LABELS[index % len(LABELS)]
        pixels = np.full((side, side, 3), 240, np.uint8)
        for y in range(1024, side - 2047, 1024):
            for x in range(1024, side - 2047, 1024):
                pixels[y : y + 1024, x : x + 1024] = tissue.crop(1024, generator)
        boxes = place_marks(pixels, label, 12, generator)
        write_pyramid(folder / f"slide-{index}.tif", pixels)
        rows.append(row_of(f"slide-{index}.tif", label, "test", boxes))
    return write_manifest(manifest, rows)


def write_pyramid(path: Path, pixels: np.ndarray) -> None:
    """Levels 1, 1/4 and 1/16, JPEG tiles at full chroma so that marks survive."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for factor in (1, 4, 16):
            size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
            level = pixels if factor == 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            writer.write(
                tiles(level),
                shape=level.shape,
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 92},
                resolution=(10_000 / MPP / factor, 10_000 / MPP / factor),
                resolutionunit="CENTIMETER",
                subfiletype=int(factor > 1),
                metadata=None,
            )


def tiles(level: np.ndarray) -> Iterator[np.ndarray]:
    """Tiles in reading order, padded to full size."""
    for y in range(0, level.shape[0], TILE):
        for x in range(0, level.shape[1], TILE):
            tile = level[y : y + TILE, x : x + TILE]
            padding = ((0, TILE - tile.shape[0]), (0, TILE - tile.shape[1]), (0, 0))
            yield np.pad(tile, padding, constant_values=255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument("--train", type=int, default=240, help="training images")
    parser.add_argument("--test", type=int, default=120, help="test images")
    parser.add_argument("--train-sides", type=int, nargs=2, default=(320, 448))
    parser.add_argument("--test-sides", type=int, nargs=2, default=(1024, 1536))
    parser.add_argument("--data-seed", type=int, default=1, help="of images and marks; settings were chosen with 0")
    parser.add_argument("--slides", type=int, default=0, help="slides to answer beside the test images")
    parser.add_argument("--slide-side", type=int, default=20_000)
    options = parser.parse_args()
    sides = {"train": tuple(options.train_sides), "test": tuple(options.test_sides)}
    counts = {"train": options.train, "test": options.test}
    manifest = write_images(options.work / "data", options.data, counts, sides, options.data_seed)
    slides = {}
    if options.slides:
        slides["slides"] = write_slides(
            options.work / "slides", options.data, options.slides, options.slide_side, options.data_seed
        )
    run_task(
        Task(
            "marks",
            manifest,
            tuple(SHARED.split()),
            attention_arms(tuple(PATCHES.split())),
            extra_tests=slides,
        ),
        options.work,
        options,
    )


if __name__ == "__main__":
    main()
