"""Colorectal nuclei as fields: the nuclei of one image laid out edge to edge; positive where any is cancerous.

    python experiments/crchisto.py --data SHARED_DATA --work FOLDER

Reads `mil/crchisto` under --data: 27 px patches of nuclei, in bags by the image that they come from. Each is enlarged
to 32 px, a cell of the attention map and 4 pixels of the coarse view, so that attention can be checked nucleus by
nucleus against the boxes of the cancerous ones. The `val` bags are the test part; validation is carved out of the rest.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import cv2
import numpy as np
from arms import Task, add_common_options, attention_arms, join_boxes, run_task, write_manifest

SIDE = 32
SHARED = (
    "--coarse-factor 8 --coarse-widths 16,32 --batch-size 4 --epochs 30 --learning-rate 0.002 --averaging 0.98 "
    "--colour 0.5 --precision bf16-mixed"
)
PATCHES = "--patch-size 32 --patch-widths 16,32,64 --instances 24 --prior none --entropy-weight 0 --guidance-weight 1"


def write_fields(work: Path, data: Path) -> Path:
    """One PNG a bag, and the manifest."""
    folder = data / "mil" / "crchisto"
    nuclei = np.load(folder / "crchisto_nuclei.npz", allow_pickle=False)
    images, bags, cancerous = nuclei["images"], nuclei["bag"], nuclei["is_cancerous"]
    (work / "data" / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    with (folder / "index.csv").open(newline="") as file:
        for entry in csv.DictReader(file):
            members = np.flatnonzero(bags == int(entry["bag"]))
            pixels, corners = lay_out(images[members])
            boxes = [(x, y, x + SIDE, y + SIDE) for (x, y), hot in zip(corners, cancerous[members], strict=True) if hot]
            name = f"images/bag-{int(entry['bag']):03}.png"
            cv2.imwrite(str(work / "data" / name), pixels[..., ::-1])
            rows.append(
                {
                    "path": name,
                    "label": "cancerous" if entry["label"] == "1" else "benign",
                    "patient": f"bag-{entry['bag']}",
                    "split": "test" if entry["split"] == "val" else "train",
                    "boxes": join_boxes(boxes),
                }
            )
    return write_manifest(work / "data" / "manifest.csv", rows)


def lay_out(nuclei: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Nuclei uint8 (n, 27, 27, 3) on a white square field, row by row, and their corners (x, y)."""
    columns = math.ceil(math.sqrt(len(nuclei)))
    rows = math.ceil(len(nuclei) / columns)
    field = np.full((rows * SIDE, columns * SIDE, 3), 255, np.uint8)
    corners = []
    for index, nucleus in enumerate(nuclei):
        x, y = index % columns * SIDE, index // columns * SIDE
        field[y : y + SIDE, x : x + SIDE] = cv2.resize(nucleus, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        corners.append((x, y))
    return field, corners


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    options = parser.parse_args()
    manifest = write_fields(options.work, options.data)
    task = Task("crchisto", manifest, tuple(SHARED.split()), attention_arms(tuple(PATCHES.split())))
    run_task(task, options.work, options)


if __name__ == "__main__":
    main()
