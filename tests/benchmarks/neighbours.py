"""What `wsi-attn predict` and `train` cost alone and beside busy processes, with sleeping and with spinning threads.

    python tests/benchmarks/neighbours.py [--quick] [--slide BIG.tif] [--repeats 3] [--output FILE.json]

"after" is the program as it is; "before" restores the default of GNU OpenMP, whose idle threads spin
(`GOMP_SPINCOUNT=300000`), and one thread per core of the machine. Beside means N processes that never pause on the N
CPUs that this process may use. Wall and processor time are those of the whole process, medians over --repeats, taken in
turns so that a change of the machine's load meets all of them. Run it on an otherwise idle machine: the load before the
start is printed. Without --slide, one of 60,000 x 40,000 pixels is made (--quick: 20,000 x 20,000 and one repeat).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from wsi_attn.slides.open import open_slide
from wsi_attn.threads import POOL_SIZES, WAIT_POLICY, available_cpus

HERE = Path(__file__).parent
SEED = HERE.parent / "data" / "cmu1_small_region.svs"
TARGET = 2.2
"""Most times the wall time alone that a run may take beside N busy processes on N CPUs."""

BEFORE = {"GOMP_SPINCOUNT": "300000", "OMP_NUM_THREADS": str(os.cpu_count())}


@dataclass(frozen=True)
class Cost:
    """Seconds of one process."""

    wall: float
    processor: float


def make_slide(path: Path, width: int, height: int) -> None:
    command = [sys.executable, HERE / "make_big_slide.py", SEED, path, "--width", str(width), "--height", str(height)]
    subprocess.run(command, check=True)


def make_manifest(folder: Path, side: int = 256, images: int = 48) -> Path:
    """Crops of the seed slide in two classes, by their brightness."""
    folder.mkdir()
    with open_slide(SEED) as slide:
        width, height = slide.info.size0
        corners = [(x, y) for y in range(0, height - side, side) for x in range(0, width - side, side)][:images]
        crops = [slide.read_region(corner, 0, (side, side)) for corner in corners]
    middle = statistics.median(float(crop.mean()) for crop in crops)
    with (folder / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for number, crop in enumerate(crops):
            Image.fromarray(crop).save(folder / f"{number}.png")
            table.writerow([f"{number}.png", "bright" if crop.mean() > middle else "dark"])
    return folder / "manifest.csv"


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(command: list[str], settings: dict[str, str]) -> Cost:
    clean = {name: value for name, value in os.environ.items() if name not in (*WAIT_POLICY, *POOL_SIZES)}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "wsi_attn", *command], env=clean | settings, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}")
    return Cost(time.perf_counter() - started, usage.ru_utime + usage.ru_stime)


def median(costs: list[Cost]) -> Cost:
    return Cost(statistics.median(cost.wall for cost in costs), statistics.median(cost.processor for cost in costs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    cpus, repeats = available_cpus(), options.repeats or (1 if options.quick else 3)
    versions = {"before": BEFORE, "after": {}}
    print(f"{cpus} CPUs, load before the start {os.getloadavg()[0]:.1f}, {repeats} repeats", flush=True)
    costs: dict[tuple[str, str, str], list[Cost]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = options.slide or folder / "slide.tif"
        if options.slide is None:
            make_slide(slide, *((20_000, 20_000) if options.quick else (60_000, 40_000)))
        manifest = make_manifest(folder / "images")
        commands = {
            "predict": ["predict", slide, "-o", folder / "answers", "--overwrite", "--quiet"],
            "train": ["train", manifest, "-o", folder / "run", "--epochs", options.epochs, "--overwrite", "--quiet"],
        }
        for _ in range(repeats):
            for command, arguments in commands.items():
                for place, count in (("alone", 0), ("beside", cpus)):
                    for version, settings in versions.items():
                        with neighbours(count):
                            cost = measure([*map(str, arguments)], settings)
                        costs.setdefault((command, version, place), []).append(cost)
                        said = f"{cost.wall:.1f} s, processor {cost.processor:.1f} s"
                        print(f"{command} {place} {version}: {said}", flush=True)
    found = {key: median(values) for key, values in costs.items()}
    print(f"\n{'':16}{'alone':>20}{'beside ' + str(cpus) + ' busy':>20}{'ratio':>8}   (wall / processor seconds)")
    for command in commands:
        for version in versions:
            alone, beside = found[command, version, "alone"], found[command, version, "beside"]
            ratio = beside.wall / alone.wall
            said = "" if version == "before" else f"   at most {TARGET}: {'yes' if ratio <= TARGET else 'NO'}"
            cells = "".join(f"{cost.wall:>11.1f} / {cost.processor:>6.1f}" for cost in (alone, beside))
            print(f"{command + ' ' + version:16}{cells}{ratio:>8.2f}{said}")
        slower = found[command, "after", "alone"].wall / found[command, "before", "alone"].wall
        print(f"{command}: alone, after takes {slower:.2f} times the wall time of before")
    if options.output:
        records = [
            dict(zip(("command", "version", "place"), key, strict=True)) | asdict(cost) for key, cost in found.items()
        ]
        options.output.write_text(json.dumps({"cpus": cpus, "repeats": repeats, "medians": records}, indent=1))


if __name__ == "__main__":
    main()
