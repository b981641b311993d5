"""Fungi under the microscope, five classes: the tiles of one photograph make one field, and the field has the label.

    python experiments/defungi.py --data SHARED_DATA --work FOLDER

Reads `classify/defungi` under --data. A row of the manifest lists the tiles of a photograph; `wsi-attn` lays them out
as one field. To train on, each tile is a small field of its own as well. The data set's `val` part is the test part
here and is not looked at before; validation is carved out of the training photographs.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

from arms import DEEP, THUMBNAILS, Arm, Task, add_common_options, attention_arms, run_task, write_manifest

SHARED = (
    "--coarse-factor 8 --batch-size 16 --epochs 20 --learning-rate 0.003 --averaging 0.99 --weight-decay 0.01 "
    "--colour 0 --precision bf16-mixed"
)
PATCHES = "--patch-size 64 --patch-widths 16,32,64,96 --instances 6 --prior none --entropy-weight 0 --guidance-weight 1"


def write_fields(work: Path, data: Path) -> Path:
    """The manifest: a row for each photograph, and to train on one for each of its tiles."""
    folder = (data / "classify" / "defungi").resolve()
    photographs: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    with (folder / "index.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            photographs[row["group"], row["label"], row["split"]].append(str(folder / row["path"]))
    rows: list[dict[str, object]] = []
    for (group, label, split), tiles in sorted(photographs.items()):
        part = "test" if split == "val" else "train"
        own = [[tile] for tile in tiles] if part == "train" and len(tiles) > 1 else []
        rows += [
            {"path": ";".join(paths), "label": label, "patient": group, "split": part}
            for paths in [sorted(tiles), *own]
        ]
    return write_manifest(work / "data" / "manifest.csv", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    options = parser.parse_args()
    manifest = write_fields(options.work, options.data)
    arms = (*attention_arms(tuple(PATCHES.split())), Arm(THUMBNAILS, against=DEEP))
    run_task(Task("defungi", manifest, tuple(SHARED.split()), arms), options.work, options)


if __name__ == "__main__":
    main()
