"""Dual cross-attention: two networks that ask each other, against either alone and against plain concatenation.

    python experiments/fusion.py chest|fungi|skin --data SHARED_DATA --work FOLDER

`chest` are X-rays of `aligned/chest_xray`, `fungi` the crops of `classify/defungi` (the crops of a photograph are one
group), `skin` those of `classify/ham10000`. The `val` parts are the test parts; validation is carved out of the rest.
`evaluate` draws 30 passes with dropout; `error:80` is the share of wrong answers once the fifth of the images is
referred whose predictive entropy is highest.
"""

from __future__ import annotations

from pathlib import Path

from arms import THUMBNAILS, Arm, Task, parsed, read_index, run_task, unlike, write_manifest
from families import x_rays

FOLDERS = {"chest": "aligned/chest_xray", "fungi": "classify/defungi", "skin": "classify/ham10000"}
SHARED = (
    "--model dual-cross --precision bf16-mixed --learning-rate 0.002 --averaging 0.98 "
    "--backbone small-resnet --second-backbone small-densenet --coarse-widths 16,32,48,64 --scale 0.1"
)
KEPT = (100, 90, 80, 70, 60, 50)
"""Percent of the images that are answered, the others referred."""
OPTIONS = {
    "chest": "--coarse-factor 4 --epochs 12 --class-weights balanced --no-flip --colour 0.5",
    "fungi": "--coarse-factor 8 --epochs 6 --batch-size 16 --colour 0.5",
    "skin": "--coarse-factor 8 --epochs 15 --colour 0.3 --dropout 0.1",
}


def write_rows(name: str, work: Path, data: Path) -> Path:
    """The manifest of a data set."""
    path = work / "data" / "manifest.csv"
    if name == "chest":
        return write_manifest(path, x_rays(data / FOLDERS[name], work / "data" / "images"))
    rows = [
        {"path": row["path"], "label": row["label"], "split": row["split"], "patient": row.get("group", row["path"])}
        for row in unlike(read_index(data / FOLDERS[name]))
    ]
    return write_manifest(path, rows)


def main() -> None:
    options = parsed(__doc__, OPTIONS)
    manifest = write_rows(options.set, options.work, options.data)
    fusions = ("cross", "first", "second", "concat")
    arms = tuple(Arm(name, ("--fusion", name), None if name == "cross" else "cross") for name in fusions)
    if options.set == "chest":
        arms = (*arms, Arm(THUMBNAILS, against="cross"))
    measures = ("accuracy", "balanced_accuracy", "auroc", "auprc", *(f"error:{kept}" for kept in KEPT), "cut:80")
    settings = (*SHARED.split(), *OPTIONS[options.set].split())
    task = Task(options.set, manifest, settings, arms, measures, evaluation=("--mc-dropout", "30"))
    run_task(task, options.work, options)


if __name__ == "__main__":
    main()
