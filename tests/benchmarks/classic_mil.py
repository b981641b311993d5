"""Accuracy of gated-mil on Musk1, Tiger and Elephant.

    python tests/benchmarks/classic_mil.py FOLDER [REPETITIONS [NAME...]]

FOLDER has `NAME.npz` with `features` (instances, D), `bag` (instances,), `bag_label` (bags,) and `test_fold`
(5, bags), the fold in which a bag is held out. As in the publication, all bags of the nine other folds train and
nothing is validated: the weights of the last epoch predict. Prints a line for each repetition and then a table.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from wsi_attn.data.manifest import read_manifest
from wsi_attn.data.slide_cache import SlideCache
from wsi_attn.models.base import Network
from wsi_attn.slide import no_progress
from wsi_attn.tasks.bags.training import BagFitting, BagTraining
from wsi_attn.tasks.base import TrainingJob
from wsi_attn.tasks.classification.training import predict_rows
from wsi_attn.tasks.config import RunOptions, TrainConfig
from wsi_attn.train.distributed import make_fabric
from wsi_attn.train.loop import fit
from wsi_attn.train.start import new_network

PUBLISHED = {"musk1": "0.900 ± 0.050", "tiger": "0.845 ± 0.018", "elephant": "0.857 ± 0.027"}
SOURCE = "Ilse et al., ICML 2018, table 1, gated attention, other folds"
FOLDS, EPOCHS = 10, 20


class Unvalidated(BagFitting):
    """Keeps the weights of the last epoch; the held-out bags are only there to be predicted."""

    epoch = 0

    def validate(self, network: Network) -> dict[str, float]:
        self.epoch += 1
        return {"val_loss": float(-self.epoch)}


def right_in(folder: Path, held: np.ndarray, labels: np.ndarray, config: TrainConfig) -> int:
    """Train on all bags that are not held out; return how many held-out ones are called right."""
    splits = np.where(held, "val", "train")
    lines = [f"{n}.npy,{label},{split}" for n, (label, split) in enumerate(zip(labels, splits, strict=True))]
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(["path,label,split", *lines]) + "\n")
    training = BagTraining(manifest, read_manifest(manifest), held_out=False)
    network = new_network(config.system, training.network, "none", config.seed)
    job = TrainingJob(
        manifest,
        config,
        {},
        RunOptions(weights="none"),
        make_fabric(config),
        SlideCache(1 << 28),
        no_progress,
        lambda record: None,
        print,
    )
    fitting = Unvalidated(training, job, network)
    with tempfile.TemporaryDirectory() as state:
        network.load_state_dict(fit(job, network, fitting, Path(state) / "state", lambda record: None).best)
    found = predict_rows(job.fabric, network, fitting.validation)
    return int((found.logits.argmax(axis=1) == found.labels).sum())


def accuracies(file: Path, repetitions: int) -> list[float]:
    """Accuracy over all bags in each repetition of the cross-validation."""
    data, found = np.load(file), []
    labels = data["bag_label"]
    with tempfile.TemporaryDirectory() as folder:
        for number, bag in enumerate(np.unique(data["bag"])):
            np.save(Path(folder) / f"{number}.npy", data["features"][data["bag"] == bag])
        for repetition in range(repetitions):
            started, right = time.perf_counter(), 0
            for fold in range(FOLDS):
                config = TrainConfig(system="gated-mil", epochs=EPOCHS, seed=FOLDS * repetition + fold, device="cpu")
                right += right_in(Path(folder), data["test_fold"][repetition] == fold, labels, config)
            found.append(right / len(labels))
            print(f"{file.stem} {repetition + 1}: {found[-1]:.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    repetitions = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    table = ["| data | repetitions | accuracy (mean ± deviation) | published | source |", "|---|---|---|---|---|"]
    for name in sys.argv[3:] or PUBLISHED:
        found = accuracies(Path(sys.argv[1]) / f"{name}.npz", repetitions)
        mean, deviation = np.mean(found), np.std(found)
        table.append(f"| {name} | {repetitions} | {mean:.3f} ± {deviation:.3f} | {PUBLISHED[name]} | {SOURCE} |")
    print("\n".join(table))
