"""Chest X-rays in the order of their numbers: how well a thumbnail machine answers a block that it was not trained on.

    python experiments/order.py --data SHARED_DATA [--blocks 5]

The training part of `aligned/chest_xray` is cut into consecutive blocks of each label; each is answered by a machine
trained on the others, also at one mean and deviation of all photographs, and as many random parts likewise. No test
image is read. Prints JSON: balanced accuracies.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from arms import read_index
from families import even

from wsi_attn.evaluate.baseline import thumbnail_svm

SIDE = 32


def blocks_of(rows: list[dict[str, str]], count: int) -> np.ndarray:
    """Number of each row's block, int64 (n,), by the number at the end of its file's name, each label by itself."""
    numbers = np.array([int(Path(row["path"]).stem.rpartition("_")[2]) for row in rows])
    found = np.zeros(len(rows), np.int64)
    for label in sorted({row["label"] for row in rows}):
        own = np.flatnonzero([row["label"] == label for row in rows])
        for block, members in enumerate(np.array_split(own[np.argsort(numbers[own])], count)):
            found[members] = block
    return found


def thumbnails(photographs: list[np.ndarray]) -> np.ndarray:
    """uint8 (n, 32, 32, 3)."""
    return np.stack([cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for pixels in photographs])


def answered(images: np.ndarray, labels: np.ndarray, parts: np.ndarray) -> list[float]:
    """Balanced accuracy on each part, trained on the others."""
    found = []
    for part in range(parts.max() + 1):
        own = parts == part
        answers = thumbnail_svm(images[~own], labels[~own], images[own], 2, seed=0).argmax(axis=1)
        recalls = [float((answers[labels[own] == label] == label).mean()) for label in (0, 1)]
        found.append(round(sum(recalls) / 2, 3))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the shared data sets")
    parser.add_argument("--blocks", type=int, default=5)
    options = parser.parse_args()
    rows = [row for row in read_index(options.data / "aligned" / "chest_xray") if row["split"] == "train"]
    photographs = [cv2.imread(row["path"]) for row in rows]
    labels = np.array([int(row["label"] == "pneumonia") for row in rows])
    blocks = blocks_of(rows, options.blocks)
    shuffled = np.random.default_rng(0).permutation(blocks)
    plain, evened = thumbnails(photographs), thumbnails([even(pixels) for pixels in photographs])
    results = {
        "blocks": answered(plain, labels, blocks),
        "blocks, even": answered(evened, labels, blocks),
        "random": answered(plain, labels, shuffled),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
