"""CARE: attention on the lesions of rare classes, against plain training, class weights, focal loss and resampling.

    python experiments/rare.py cells|platelets|skin --data SHARED_DATA --work FOLDER

`cells` are the blood cells of `boxes/wbc` with boxes around their masks, `platelets` the fields of `boxes/bccd` with
the boxes of platelets, of which only `KEPT` training fields are kept so that they are rare, `skin` the lesions of
`classify/ham10000`, which have no boxes. The `val` parts are the test parts; validation is carved out of the rest.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from arms import Arm, Task, join_boxes, parsed, read_index, run_task, unlike, write_manifest

FOLDERS = {"cells": "boxes/wbc", "platelets": "boxes/bccd", "skin": "classify/ham10000"}
RARE = {"cells": ("eosinophil", "basophil"), "platelets": ("platelets",), "skin": ("akiec", "vasc", "df")}
KEPT = 16
"""Training fields with platelets, of 88 without."""
SHARED = (
    "--model cnn --precision bf16-mixed --learning-rate 0.002 --averaging 0.98 --backbone small-resnet --colour 0.5"
)
OPTIONS = {
    "cells": "--coarse-factor 2 --epochs 30",
    "platelets": "--coarse-factor 4 --epochs 30",
    "skin": "--coarse-factor 8 --epochs 20",
}


def write_rows(name: str, work: Path, data: Path) -> Path:
    """The manifest of a data set."""
    folder = data / FOLDERS[name]
    rows = []
    kept = 0
    for row in unlike(read_index(folder)):
        entry = {"path": row["path"], "label": row["label"], "split": row["split"], "boxes": ""}
        if name == "cells":
            entry["boxes"] = " ".join(row[side] for side in ("x1", "y1", "x2", "y2"))
        if name == "platelets" and row["label"] == "platelets":
            entry["boxes"] = join_boxes(platelets(folder / row["boxes"]))
            kept += row["split"] == "train"
            if row["split"] == "train" and kept > KEPT:
                continue
        rows.append(entry)
    return write_manifest(work / "data" / "manifest.csv", rows)


def platelets(path: Path) -> list[tuple[int, ...]]:
    """Their boxes in a Pascal VOC file, which also has red and white cells; empty ones left out."""
    boxes = []
    for item in ElementTree.parse(path).iter("object"):
        if item.findtext("name", "").lower() == "platelets":
            corners = tuple(int(item.findtext(f"bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax"))
            if corners[0] < corners[2] and corners[1] < corners[3]:
                boxes.append(corners)
    return boxes


def main() -> None:
    options = parsed(__doc__, OPTIONS)
    manifest = write_rows(options.set, options.work, options.data)
    rare = ("--rare-classes", ",".join(RARE[options.set]))
    care = ("--class-weights", "none", *rare, "--care-reduction", "mean", "--care-weight", "0.3")
    weighted = (*care, "--class-weights", "root")  # the last --class-weights counts
    arms = [
        Arm("plain", ("--class-weights", "none")),
        Arm("class-weights", ("--class-weights", "balanced"), "plain"),
        Arm("root-weights", ("--class-weights", "root"), "plain"),
        Arm("focal", ("--class-weights", "none", "--loss", "focal"), "plain"),
        Arm("resampled", ("--class-weights", "none", "--resample", "balanced"), "plain"),
        Arm("care-saliency", (*care, "--care", "saliency"), "plain"),
        Arm("care-saliency-root-weights", (*weighted, "--care", "saliency"), "root-weights"),
    ]
    if options.set != "skin":
        arms += [
            Arm("care-boxes", (*care, "--care", "boxes"), "plain"),
            Arm("care-boxes-root-weights", (*weighted, "--care", "boxes"), "root-weights"),
        ]
    names = "+".join(RARE[options.set])
    measures = (f"recall:{names}", f"auprc:{names}", "accuracy", "balanced_accuracy")
    settings = (*SHARED.split(), *OPTIONS[options.set].split())
    run_task(Task(options.set, manifest, settings, tuple(arms), measures), options.work, options)


if __name__ == "__main__":
    main()
