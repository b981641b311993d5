"""Training and prediction on a GPU: throughput, utilisation, waiting, and agreement with the CPU and with bf16.

    python tests/benchmarks/gpu.py MANIFEST SLIDE [--device cuda] [--epochs 3] [--output FILE.json]

Trains deep attention on the images of MANIFEST with `--precision 32` and `bf16-mixed`, then predicts SLIDE with the
first model on the device and on the CPU. Throughput and the share of time that the network waits for data are those of
`log.csv` without the first epoch, which fills the caches. Utilisation is sampled by `nvidia-smi` where there is one.
With 200 images of 1,024 px it takes a few minutes.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import torch

UTILISATION = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")


def wsi_attn(*arguments: object) -> float:
    """Run the command line; returns wall seconds."""
    command = [str(Path(sys.executable).parent / "wsi-attn"), *map(str, arguments)]
    started = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return time.perf_counter() - started


@contextmanager
def utilisation(samples: list[float]):
    """Sample the utilisation of the first GPU, in percent, twice a second."""
    ended = threading.Event()

    def sample() -> None:
        while shutil.which(UTILISATION[0]) and not ended.wait(0.5):
            said = subprocess.run(UTILISATION, check=False, capture_output=True, text=True).stdout.split()
            samples.extend(float(value) for value in said[:1] if value.isdigit())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def trained(manifest: Path, run: Path, device: str, precision: str, epochs: int) -> dict[str, float | None]:
    """Train one model; returns what its log says of the later epochs."""
    used: list[float] = []
    with utilisation(used):
        seconds = wsi_attn(
            *("train", manifest, "--output", run, "--device", device, "--precision", precision, "--epochs", epochs)
        )
    with (run / "log.csv").open(newline="") as file:
        epochs_logged = list(csv.DictReader(file))
    later = epochs_logged[1:] or epochs_logged

    def mean(name: str) -> float:
        return round(statistics.mean(float(row[name]) for row in later), 3)

    return {
        "seconds": round(seconds, 1),
        "images_per_second": mean("images_per_second"),
        "patches_per_second": mean("patches_per_second"),
        "share_waiting_for_data": mean("data_wait"),
        "utilisation_percent": round(statistics.median(used), 1) if used else None,
        "val_loss": float(epochs_logged[-1]["val_loss"]),
    }


def predicted(slide: Path, model: Path, folder: Path, device: str) -> tuple[float, list[float]]:
    """Predict a slide; returns wall seconds and its probabilities."""
    options = ("--allow-out-of-distribution", "--device", device, "--output", folder)
    seconds = wsi_attn("predict", slide, "--model", model, *options)
    record = json.loads(next(folder.glob("*.prediction.json")).read_text())
    return seconds, list(record["probabilities"].values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        raise SystemExit("no CUDA device; --device cpu tries the script")
    found: dict[str, object] = {
        "device": torch.cuda.get_device_name(options.device) if cuda else options.device,
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for precision in ("32", "bf16-mixed"):
            run = place / precision
            found[f"train {precision}"] = trained(options.manifest, run, options.device, precision, options.epochs)
        answers = {}
        for device in (options.device, "cpu"):
            seconds, answers[device] = predicted(options.slide, place / "32", place / f"on-{device}", device)
            found[f"predict {device}"] = {"seconds": round(seconds, 2)}
        pairs = zip(answers[options.device], answers["cpu"], strict=True)
        found["largest difference of probabilities to the CPU"] = max(abs(a - b) for a, b in pairs)
    text = json.dumps(found, indent=2)
    print(text)
    if options.output:
        options.output.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
