"""The bar that needs no network: a support vector machine on 32 px thumbnails, its answers written as a run's are."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from wsi_attn.data.manifest import read_manifest
from wsi_attn.recipes.build import baseline_answers


def answer_by_thumbnails(manifest: Path, folder: Path, seed: int) -> None:
    """`predictions.csv` and an empty report of the test rows, unless they are there; trained on all others."""
    if (folder / "report.json").is_file():
        return
    rows = read_manifest(manifest)
    labels = sorted({row.label for row in rows})
    testing, probabilities = baseline_answers(rows, labels, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient", "label", *(f"probability:{label}" for label in labels), "entropy"])
        for row, answer in zip(testing, probabilities, strict=True):
            path = ";".join(str(path).removeprefix(f"{manifest.parent}/") for path in row.paths)  # as `evaluate` has it
            entropy = -float((answer * np.log(answer.clip(1e-12))).sum())
            writer.writerow([path, row.patient, row.label, *(f"{p:.6g}" for p in [*answer, entropy])])
    (folder / "report.json").write_text(json.dumps({}))
