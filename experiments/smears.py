"""Blood smears put together from single cells: is there an eosinophil or a basophil among them?

    python experiments/smears.py --data SHARED_DATA --work FOLDER [--train 320] [--test 60]

Reads `boxes/wbc` under --data. A smear to test on is a megapixel field with some twenty cells, one or two of them rare
where the answer is yes; those to train on are of that size and smaller. Cells of a smear come from one split only;
images of the same pixels count once. Smears that share a rare cell are one group; the common cells are shared by many
smears, so intervals are too narrow in that respect. The `val` cells make the test part.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from arms import Task, add_common_options, attention_arms, join_boxes, run_task, write_manifest

RARE = ("eosinophil", "basophil")
SIDES = (416, 608, 800, 1024)
"""Pixels along a smear: of those to train on, the last of those to test on."""
PITCH, CELL = 192, 120
"""Pixels between places for cells, and along a cell's picture."""
FILLED = (0.64, 0.88)
"""Least and largest share of the places that have a cell."""
BACKGROUND = np.array([245, 235, 170])
SHARED = (
    "--coarse-factor 16 --coarse-widths 16,32 --batch-size 8 --epochs 25 --learning-rate 0.003 --averaging 0.98 "
    "--colour 0 --precision bf16-mixed"
)
PATCHES = "--patch-size 96 --patch-widths 16,32,64 --instances 20 --prior none --entropy-weight 0 --guidance-weight 1"
EDGE = 12
"""Pixels over which a cell's picture fades into the background."""


@dataclass(frozen=True)
class Cell:
    """One picture, uint8 (120, 120, 3), and its name and kind."""

    name: str
    kind: str
    pixels: np.ndarray


def read_cells(folder: Path, split: str) -> list[Cell]:
    """Cells of one split of the first part of the data, whose pictures are of one size and stain, each once."""
    seen: set[str] = set()
    cells = []
    with (folder / "index.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == split and row["part"] == "dataset1" and row["sha256"] not in seen:
                seen.add(row["sha256"])
                pixels = cv2.imread(str(folder / row["path"]))[..., ::-1]
                cells.append(
                    Cell(Path(row["path"]).stem, row["label"], on_background(cv2.resize(pixels, (CELL, CELL))))
                )
    return cells


def on_background(pixels: np.ndarray) -> np.ndarray:
    """The picture lit so that its border, plasma, has the colour of the smears: it must not give a cell away."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.clip(pixels * (BACKGROUND / np.median(border, axis=0)), 0, 255).astype(np.uint8)


def smear(
    side: int, cells: list[Cell], rare: list[Cell], rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """A field of common cells and the rare ones given, and the boxes of those."""
    common = [cell for cell in cells if cell.kind not in RARE]
    field = np.clip(rng.normal(BACKGROUND, 3, (side, side, 3)), 0, 255)
    places = [(x, y) for y in range(16, side - PITCH, PITCH) for x in range(16, side - PITCH, PITCH)]
    count = round(float(rng.uniform(*FILLED)) * len(places))
    chosen = [places[index] for index in rng.permutation(len(places))[:count]]
    boxes = []
    for index, (x, y) in enumerate(chosen):
        cell = rare[index] if index < len(rare) else common[int(rng.integers(len(common)))]
        x, y = x + int(rng.integers(0, PITCH - CELL)), y + int(rng.integers(0, PITCH - CELL))
        pixels = np.rot90(cell.pixels, int(rng.integers(4))).astype(np.float64)
        window = field[y : y + CELL, x : x + CELL]
        window += fade() * (pixels - window)
        if index < len(rare):
            boxes.append((x, y, x + CELL, y + CELL))
    return field.astype(np.uint8), boxes


def fade() -> np.ndarray:
    """Weight of a cell's picture, (120, 120, 1): 1 inside, 0 at its edge."""
    distance = np.minimum(np.arange(CELL), np.arange(CELL)[::-1])
    ramp = np.clip(distance / EDGE, 0, 1)
    return np.minimum.outer(ramp, ramp)[..., None]


def write_smears(work: Path, data: Path, counts: dict[str, int]) -> Path:
    """Fields as PNG, half of them with rare cells, and the manifest; what is there is kept."""
    manifest = work / "data" / "manifest.csv"
    if manifest.is_file():
        return manifest
    (work / "data" / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for part, (split, count) in enumerate(counts.items()):
        cells = read_cells(data / "boxes" / "wbc", "train" if split == "train" else "val")
        rare = [cell for cell in cells if cell.kind in RARE]
        for index in range(count):
            rng = np.random.default_rng([part, index])
            chosen = [rare[index // 2 % len(rare)]] * (1 + int(rng.integers(2))) if index % 2 else []
            side = int(rng.choice(SIDES)) if split == "train" else SIDES[-1]
            pixels, boxes = smear(side, cells, chosen, rng)
            name = f"images/{split}-{index:04}.png"
            cv2.imwrite(str(work / "data" / name), pixels[..., ::-1])
            rows.append(
                {
                    "path": name,
                    "label": "rare" if chosen else "common",
                    "patient": chosen[0].name if chosen else name,
                    "split": split,
                    "boxes": join_boxes(boxes),
                }
            )
    return write_manifest(manifest, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument("--train", type=int, default=320)
    parser.add_argument("--test", type=int, default=60)
    options = parser.parse_args()
    manifest = write_smears(options.work, options.data, {"train": options.train, "test": options.test})
    arms = attention_arms(tuple(PATCHES.split()))
    run_task(Task("smears", manifest, tuple(SHARED.split()), arms), options.work, options)


if __name__ == "__main__":
    main()
