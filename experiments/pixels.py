"""Joint attention in a DenseUNet, against its two parts and against none: four data sets with masks.

    python experiments/pixels.py SET --data SHARED_DATA --work FOLDER

SET is nuclei, vessels, membranes or tissue-nuclei.
`nuclei` is `segment/dsb2018`, `vessels` `chase_db1` (both eyes of a child are one group), `membranes` `em_membrane`,
`tissue-nuclei` `monuseg`. The `val` parts are the test parts; validation is carved out of the rest.
"""

from __future__ import annotations

from pathlib import Path

from arms import Arm, Task, parsed, read_index, run_task, write_manifest

FOLDERS = {"nuclei": "dsb2018", "vessels": "chase_db1", "membranes": "em_membrane", "tissue-nuclei": "monuseg"}
SHARED = (
    "--model joint-segmentation --precision bf16-mixed --learning-rate 0.002 --averaging 0.98 --colour 0.3 --warp 0"
)
OPTIONS = {
    "nuclei": "--epochs 12 --batch-size 4",
    "vessels": "--epochs 5 --batch-size 4",
    "membranes": "--epochs 12 --batch-size 4",
    "tissue-nuclei": "--epochs 10 --batch-size 4",
}


def write_rows(name: str, work: Path, data: Path) -> Path:
    """The manifest of a data set."""
    rows = [
        {
            "path": row["path"],
            "mask": row["mask"],
            "label": row["label"] if name == "nuclei" else "",
            "patient": row.get("patient") or row["path"],
            "split": row["split"],
        }
        for row in read_index(data / "segment" / FOLDERS[name])
    ]
    return write_manifest(work / "data" / "manifest.csv", rows)


def main() -> None:
    options = parsed(__doc__, FOLDERS)
    manifest = write_rows(options.set, options.work, options.data)
    arms = tuple(
        Arm(kind, ("--attention", kind), None if kind == "joint" else "joint")
        for kind in ("joint", "pointwise", "self", "none")
    )
    measures = ("dice", "image:dice:foreground", "image:boundary_f:foreground", "image:object_f1:foreground")
    settings = (*SHARED.split(), *OPTIONS[options.set].split())
    run_task(Task(options.set, manifest, settings, arms, measures), options.work, options)


if __name__ == "__main__":
    main()
