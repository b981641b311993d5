"""What `wsi-attn predict` costs on a slide, against encoding every tissue tile with the same patch network.

    python tests/benchmarks/predict_cost.py SLIDE [--model NAME] [--tiles 2000] [--whole] [--output FILE.json]

Measures wall and processor time and peak memory of the whole process of `predict`. A second run counts, by a wrapper
of the slide, the pixels of level 0 that are asked for and those of the tiles of the file that must be decoded for them.
The other side is `--exhaustive` where --whole is given; else the time of a random sample of blocks of 8 x 8 tiles, in
all about --tiles, scaled up to all tissue tiles: an estimate, and the output says so.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from wsi_attn.data.large import slide_bag
from wsi_attn.data.sources import SlidePatches, open_source
from wsi_attn.models.checkpoint import load_checkpoint
from wsi_attn.models.zoo import DEFAULT, find_model
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.exhaustive import ATTENTION, BLOCK_TILES, MIN_TISSUE, score_tiles
from wsi_attn.tasks.classification.slide import predict_slide


class CountedSlide:
    """A slide that counts what is read of its level 0."""

    def __init__(self, slide) -> None:
        self.slide = slide
        self.info = slide.info
        self.asked = self.decoded = 0

    def read_region(self, xy0, level, size):
        """See `Slide.read_region`; counts, where level is 0, the region and the tiles of the file that it touches."""
        if level == 0:
            self.asked += math.prod(size)
            sides = self.info.levels[0].tile_size
            touched = [
                (start + extent - 1) // side - start // side + 1
                for start, extent, side in zip(xy0, size, sides, strict=True)
            ]
            self.decoded += math.prod(touched) * math.prod(sides)
        return self.slide.read_region(xy0, level, size)

    def close(self) -> None:
        """Close the slide."""
        self.slide.close()


def whole_process(slide: Path, model: str, *options: str) -> dict[str, float]:
    """Wall time and peak memory of one `wsi-attn predict`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "wsi-attn"), "predict", str(slide), "--model", model, *options]
        started, before = time.perf_counter(), cpu_of_children()
        done = subprocess.run([*command, "--output", folder], check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        seconds, cpu = time.perf_counter() - started, cpu_of_children() - before
    peak = next(line for line in done.stderr.splitlines() if line.startswith("peak memory")).split()[2]
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_mb": float(peak)}


def cpu_of_children() -> float:
    """Processor time of the processes that have ended, which others on the machine hardly change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def level0_share(path: Path, model: str) -> dict[str, float]:
    """Pixels of level 0 that a prediction reads, as shares of all."""
    with open_source(path) as slide:
        counted = CountedSlide(slide)
        predict_slide(counted, load_checkpoint(find_model(model)), PredictConfig(allow_out_of_distribution=True))
        total = math.prod(slide.info.size0)
        return {
            "pixels": total,
            "asked_share": round(counted.asked / total, 6),
            "decoded_share": round(counted.decoded / total, 6),
        }


def encoding_estimate(path: Path, model: str, tiles: int, seed: int = 0) -> dict[str, float | str]:
    """Time that encoding every tissue tile would take, from a random sample of blocks of tiles."""
    checkpoint = load_checkpoint(find_model(model))
    network, spec = checkpoint.network, checkpoint.spec
    with open_source(path) as slide:
        patches = SlidePatches(slide, spec.mpp, network.config.coarse_factor)
        coverage = slide_bag(patches, network.stride, spec.tissue).coverage
        wanted = np.zeros(0, np.bool_)

        def sampled(regions0):
            """Tissue of a random share of the blocks."""
            nonlocal wanted
            wanted = coverage(regions0) >= MIN_TISSUE
            side = regions0[0, 2:] * BLOCK_TILES
            block = (regions0[:, :2] // side).astype(np.int64)
            number = block[:, 1] * (block[:, 0].max() + 1) + block[:, 0]
            share = min(1.0, tiles / max(1, wanted.sum()))
            chosen = np.random.default_rng(seed).random(number.max() + 1) < share
            return np.where(wanted & chosen[number], 1, 0).astype(np.float32)

        with torch.inference_mode():
            started, before = time.perf_counter(), time.process_time()
            maps, _ = score_tiles(patches, network, spec.labels, sampled)
            seconds, cpu = time.perf_counter() - started, time.process_time() - before
    total, scored = int(wanted.sum()), int(np.isfinite(maps[ATTENTION].values).sum())
    return {
        "basis": f"extrapolated from a random sample of {scored} of {total} tissue tiles",
        "tissue_tiles": total,
        "sampled_tiles": scored,
        "sampled_seconds": round(seconds, 2),
        "seconds": round(seconds / max(1, scored) * total, 1),
        "cpu_seconds": round(cpu / max(1, scored) * total, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--tiles", type=int, default=2000)
    parser.add_argument("--whole", action="store_true", help="run --exhaustive to its end and estimate nothing")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    predicted = whole_process(options.slide, options.model, "--allow-out-of-distribution")
    if options.whole:
        every = {
            "basis": "measured",
            **whole_process(options.slide, options.model, "--allow-out-of-distribution", "--exhaustive"),
        }
        for clock in ("seconds", "cpu_seconds"):
            every[clock] -= predicted[clock]  # it predicts too
    else:
        every = encoding_estimate(options.slide, options.model, options.tiles)
    record = {
        "slide": options.slide.name,
        "model": options.model,
        "threads": torch.get_num_threads(),
        "predict": predicted,
        "level0": level0_share(options.slide, options.model),
        "every_tissue_tile": every,
        "ratio": round(every["seconds"] / predicted["seconds"], 1),
        "cpu_ratio": round(every["cpu_seconds"] / predicted["cpu_seconds"], 1),
    }
    text = json.dumps(record, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
