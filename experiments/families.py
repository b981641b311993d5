"""Global spatial attention: four families of networks, each with the map of places and without it.

    python experiments/families.py chest|pneumonia|cells --data SHARED_DATA --work FOLDER

`chest` are X-rays of `aligned/chest_xray`, `pneumonia` the 28 px pictures of `aligned/pneumoniamnist`, many of the same
photographs, and `cells` the centred blood cells of `boxes/wbc`, five kinds, one image of each set of equal pixels. The
`val` parts are the test parts; validation is carved out of the rest. Of `cells`, which have masks, `maps.json` says how
much of each learned map lies on the object.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
from arms import THUMBNAILS, Arm, Task, parsed, read_index, run_task, unlike, write_manifest, wsi_attn

FAMILIES = ("vgg", "googlenet", "resnet", "densenet")
SHARED = "--model global-spatial --precision bf16-mixed --learning-rate 0.002 --averaging 0.98 --scale 0.1"
OPTIONS = {
    "chest": "--view-size 96 --coarse-widths 16,32,48,64 --epochs 20 --class-weights balanced",
    "pneumonia": "--view-size 32 --coarse-widths 24,48,96 --epochs 5 --batch-size 32",
    "cells": "--view-size 96 --coarse-widths 16,32,48,64 --epochs 20",
}
MEAN, DEVIATION = 128, 48
"""Grey values of every chest X-ray."""
SPLITS = {"train": "train", "val": "test"}


def write_rows(name: str, work: Path, data: Path) -> Path:
    """The manifest of a data set."""
    path = work / "data" / "manifest.csv"
    if path.is_file():
        return path
    if name == "pneumonia":
        return write_manifest(path, unpacked(data / "aligned" / "pneumoniamnist", work / "data" / "images"))
    if name == "chest":
        return write_manifest(path, x_rays(data / "aligned" / "chest_xray", work / "data" / "images"))
    columns = ("path", "label", "split", "mask")
    rows = unlike(read_index(data / "boxes" / "wbc"))
    return write_manifest(path, [{column: row[column] for column in columns} for row in rows])


def x_rays(folder: Path, images: Path) -> list[dict[str, object]]:
    """Photographs of `aligned/chest_xray` as PNG of one mean and deviation, and their rows.

    They are numbered in an order in which apparatus and exposure change, and the test part is its end: light as it is
    tells apparatus apart.
    """
    images.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in read_index(folder):
        name = f"{Path(row['path']).stem}.png"
        cv2.imwrite(str(images / name), even(cv2.imread(row["path"], cv2.IMREAD_GRAYSCALE)))
        rows.append({"path": f"images/{name}", "label": row["label"], "split": row["split"]})
    return rows


def even(pixels: np.ndarray) -> np.ndarray:
    """The photograph, uint8, at one mean and deviation."""
    found = MEAN + DEVIATION * (pixels - pixels.mean()) / max(1.0, pixels.std())
    return found.clip(0, 255).astype(np.uint8)


def unpacked(folder: Path, images: Path) -> list[dict[str, object]]:
    """Pictures of the archive as PNG, and their rows."""
    archive = np.load(folder / "pneumoniamnist_trainval.npz", allow_pickle=False)
    images.mkdir(parents=True, exist_ok=True)
    rows = []
    for part, split in SPLITS.items():
        pairs = zip(archive[f"{part}_images"], archive[f"{part}_labels"].ravel(), strict=True)
        for index, (pixels, label) in enumerate(pairs):
            name = f"{split}-{index:04}.png"
            cv2.imwrite(str(images / name), pixels)
            rows.append({"path": f"images/{name}", "label": ("normal", "pneumonia")[label], "split": split})
    return rows


def write_maps(manifest: Path, work: Path) -> None:
    """`maps.json`: the share of each map's weight inside the mean mask of the test images, and that of the area."""
    with manifest.open(newline="") as file:
        masks = [cv2.imread(row["mask"], 0) for row in csv.DictReader(file) if row["split"] == "test"]
    found = {}
    for run in sorted((work / "runs").glob("with-*-[0-9]")):
        folder = work / "maps" / run.name
        if not folder.is_dir():
            wsi_attn(1, "export", run, "--to", "attention-map", "--output", folder)
        weights = cv2.imread(str(next(folder.glob("*.attention-map.png"))), 0).astype(np.float64)
        size = weights.shape[::-1]
        mean = np.mean([cv2.resize((mask > 0).astype(np.float32), size) for mask in masks], axis=0)
        inside = mean > 0.5
        found[run.name] = {
            "mass_inside": round(float(weights[inside].sum() / weights.sum()), 4),
            "area_inside": round(float(inside.mean()), 4),
            "mean_inside": round(float(weights[inside].mean() / 255), 4),
            "mean_outside": round(float(weights[~inside].mean() / 255), 4),
        }
    (work / "maps.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    options = parsed(__doc__, OPTIONS)
    manifest = write_rows(options.set, options.work, options.data)
    arms = []
    for family in FAMILIES:
        network = ("--backbone", f"small-{family}")
        arms.append(Arm(f"without-{family}", (*network, "--map-by", "none")))
        arms.append(Arm(f"with-{family}", network, f"without-{family}"))
    if options.set == "chest":
        arms.append(Arm(THUMBNAILS))
    measures = ("accuracy", "balanced_accuracy", "auroc")
    settings = (*SHARED.split(), *OPTIONS[options.set].split())
    task = Task(options.set, manifest, settings, tuple(arms), measures, pooled=True)
    run_task(task, options.work, options)
    if options.set == "cells" and not options.only_data:
        write_maps(manifest, options.work)


if __name__ == "__main__":
    main()
