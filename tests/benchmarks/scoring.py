"""Speed of tile scores beside OpenCV and NumPy: python tests/benchmarks/scoring.py [SLIDES] [--tiles N] [--rounds N].

Tiles of 256 pixels with at least half tissue are cut from real slides (those of the data collection where there is
one, the demo slide otherwise) and scored by one thread of each: this package, and the same definitions written with
OpenCV and with NumPy. They take turns; the best round of each counts. Then the cost of decoding the same tiles from
JPEG, each score alone, and two threads. Speeds are in megapixels per second of processor time, as the machine may be
shared; for two threads, `cpu` is the processor time they need together over that of one (1 is ideal, whatever else
runs), `wall` how much sooner they were done (2 is ideal, on two idle cores). Prints one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile
from PIL import Image

PASSES = 8
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from wsi_attn.scores.fused import MAX_DENSITY, UNMIXING  # noqa: E402
from wsi_attn.scores.scores import SCORES, score_tiles, warm_up  # noqa: E402

COLLECTION = Path(os.environ.get("WSI_ATTN_DATA", ROOT / "shared" / "data")) / "slides"
SIDE, RULE, NAMES = 256, ("chroma", 20), SCORES.built_in
DENSITY = np.rint(-np.log10((np.arange(256) + 1) / 256) / MAX_DENSITY * 65535).astype(np.float32) / 65535 * MAX_DENSITY


def cut(slides: list[Path], count: int) -> np.ndarray:
    """`count` tissue tiles, as many from each slide as there are, spread evenly over it."""
    found = []
    for path in slides:
        pixels = tifffile.imread(path, key=0)
        rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
        tiles = pixels[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)
        tiles = tiles.reshape(-1, SIDE, SIDE, 3)
        share = ((tiles.max(axis=3) - tiles.min(axis=3)) > RULE[1]).mean(axis=(1, 2))
        found.append(tiles[share >= 0.5])
    every = np.concatenate(found)
    return np.ascontiguousarray(every[np.linspace(0, len(every) - 1, count).astype(int)])


def score_with_opencv(tile: np.ndarray) -> list[float]:
    """All scores of one whole tile, by calls that OpenCV has vector code for, in 8 bits where that is enough."""
    red, green, blue = cv2.split(tile)
    chroma = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    tissue = cv2.countNonZero(cv2.compare(chroma, RULE[1], cv2.CMP_GT)) / chroma.size
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
    focus = float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S, borderType=cv2.BORDER_REPLICATE))[1][0, 0]) ** 2
    lags = [
        cv2.norm(grey[a], grey[b], cv2.NORM_L2SQR) * sign
        for a, b, sign in (
            (np.s_[:, 2:], np.s_[:, :-2], 1),
            (np.s_[:, 1:], np.s_[:, :-1], -1),
            (np.s_[2:], np.s_[:-2], 1),
            (np.s_[1:], np.s_[:-1], -1),
        )
    ]
    sharpness = sum(lags) / 4 / grey.size
    counts = cv2.calcHist([grey[::2, ::2]], [0], None, [256], [0, 256]).ravel()
    share = counts[counts > 0] / counts.sum()
    entropy = float(-(share * np.log2(share)).sum())
    cells = cv2.resize(tile, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    means = np.array(cv2.mean(cv2.LUT(cells, DENSITY))[:3])  # linear, so that stains need no density of each pixel
    red, green, blue = cv2.split(cells)
    high, low = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    chroma = cv2.subtract(high, low)
    green_red, blue_red = cv2.subtract(green, red), cv2.subtract(blue, red)
    teal = cv2.bitwise_and(cv2.compare(green_red, 30, cv2.CMP_GT), cv2.compare(blue_red, 90, cv2.CMP_GT))
    violet = cv2.compare(cv2.subtract(blue, cv2.max(red, green)), 130, cv2.CMP_GT)
    over_blue = cv2.compare(cv2.subtract(green, blue), 10, cv2.CMP_GT)
    grass = cv2.bitwise_and(cv2.compare(green_red, 30, cv2.CMP_GT), over_blue)
    crimson = cv2.compare(cv2.subtract(red, cv2.max(green, blue)), 110, cv2.CMP_GT)
    black = cv2.bitwise_and(cv2.compare(high, 50, cv2.CMP_LT), cv2.compare(chroma, 15, cv2.CMP_LT))
    ink = cv2.bitwise_or(cv2.bitwise_or(teal, violet), cv2.bitwise_or(grass, cv2.bitwise_or(crimson, black)))
    bright = cv2.LUT(high, BRIGHT)  # the least chroma that is a fold, less 1
    fold = cv2.countNonZero(cv2.compare(chroma, bright, cv2.CMP_GT)) / chroma.size
    stains = means @ UNMIXING
    pen = cv2.countNonZero(ink) / ink.size
    return [tissue, focus, sharpness, entropy, means.mean(), stains[0], stains[1], pen, fold]


BRIGHT = np.minimum(np.arange(256) * (np.arange(256) + 64) // 255, 255).astype(np.uint8)


def score_with_numpy(tile: np.ndarray) -> list[float]:
    """All scores of one whole tile, each intermediate computed once and in the narrowest type that holds it."""
    chroma = tile.max(axis=2) - tile.min(axis=2)
    tissue = np.count_nonzero(chroma > RULE[1]) / chroma.size
    wide = tile.astype(np.uint16)
    grey = ((77 * wide[..., 0] + 150 * wide[..., 1] + 29 * wide[..., 2] + 128) >> 8).astype(np.int16)
    edged = np.pad(grey, 1, mode="edge")
    centre, north, south = edged[1:-1, 1:-1], edged[:-2, 1:-1], edged[2:, 1:-1]
    west, east = edged[1:-1, :-2], edged[1:-1, 2:]
    focus = np.square((north + south + west + east - 4 * centre).astype(np.float32)).mean()
    lags = [np.square((a - b).astype(np.float32)).mean() for a, b in ((east, west), (south, north))]
    lags += [-np.square((a - b).astype(np.float32)).mean() for a, b in ((centre, west), (south, centre))]
    counts = np.bincount(grey[::2, ::2].ravel(), minlength=256)
    share = counts[counts > 0] / counts.sum()
    entropy = -(share * np.log2(share)).sum()
    cells = ((wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2] + 2) >> 2).astype(np.uint8)
    means = DENSITY[cells].mean(axis=(0, 1))
    red, green, blue = np.moveaxis(cells.astype(np.int16), 2, 0)
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    ink = ((green - red > 30) & (blue - red > 90)) | (blue - np.maximum(red, green) > 130)
    ink |= ((green - red > 30) & (green - blue > 10)) | (red - np.maximum(green, blue) > 110)
    ink |= (high < 50) & (high - low < 15)
    fold = np.count_nonzero(high - low > BRIGHT[high]) / high.size
    pen = np.count_nonzero(ink) / ink.size
    return [tissue, focus, max(0, sum(lags) / 4), entropy, means.mean(), *(means @ UNMIXING), pen, fold]


def best(runs: dict[str, Callable[[], object]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Least processor time and least wall time of each, taking turns."""
    cpu, wall = dict.fromkeys(runs, float("inf")), dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.process_time(), time.perf_counter()
            run()
            cpu[name] = min(cpu[name], time.process_time() - started[0])
            wall[name] = min(wall[name], time.perf_counter() - started[1])
    return cpu, wall


def on_threads(count: int, run: Callable[[np.ndarray], object], tiles: np.ndarray) -> None:
    """`PASSES` over the tiles, shared out to threads: one pass is over before a second core has woken up."""

    def passes() -> None:
        for _ in range(PASSES // count):
            run(tiles)

    threads = [threading.Thread(target=passes) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", nargs="*", type=Path)
    parser.add_argument("--tiles", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    own = [path for path in (COLLECTION / "cmu1_small_region.svs", COLLECTION / "crc01_he_left.tif") if path.exists()]
    slides = options.slides or own or [ROOT / "tests" / "data" / "cmu1_small_region.svs"]
    cv2.setNumThreads(1)
    tiles = cut(slides, options.tiles)
    jpegs = []
    for tile in tiles:
        file = io.BytesIO()
        Image.fromarray(tile).save(file, "JPEG", quality=80, subsampling=2)
        jpegs.append(file.getvalue())

    def score(part: np.ndarray, names: tuple[str, ...] = NAMES) -> dict[str, np.ndarray]:
        return score_tiles(part, np.full((len(part), 2), SIDE), names, RULE, parallel=False)

    def with_opencv(part: np.ndarray) -> np.ndarray:
        return np.array([score_with_opencv(tile) for tile in part])

    def decode_and_score(names: tuple[str, ...]) -> None:
        for start in range(0, len(jpegs), 16):
            part = np.stack([imagecodecs.jpeg8_decode(data) for data in jpegs[start : start + 16]])
            if names:
                score(part, names)

    warm_up(NAMES)
    few = tiles[:: max(1, len(tiles) // 16)]
    plain = np.array([score_with_numpy(tile) for tile in few])
    ours, theirs = np.stack(list(score(tiles).values()), axis=1), with_opencv(tiles)
    times, wall = best(
        {
            "wsi_attn": lambda: score(tiles),
            "opencv": lambda: with_opencv(tiles),
            "wsi_attn, 1 thread": lambda: on_threads(1, score, tiles),
            "wsi_attn, 2 threads": lambda: on_threads(2, score, tiles),
            "tissue alone": lambda: score(tiles, ("tissue",)),
            "decode": lambda: decode_and_score(()),
            "decode and all scores": lambda: decode_and_score(NAMES),
            "tiles in cache": lambda: [score(tiles[:16]) for _ in range(len(tiles) // 16)],
        },
        options.rounds,
    )
    times |= best({"numpy": lambda: [score_with_numpy(tile) for tile in few]}, options.rounds)[0]
    times |= best({name: lambda name=name: score(tiles, (name,)) for name in NAMES}, max(3, options.rounds // 3))[0]
    pixels = dict.fromkeys(times, tiles.size / 3) | {
        "numpy": few.size / 3,
        "tiles in cache": len(tiles) // 16 * 16 * SIDE**2,
    }
    speed = {name: pixels[name] / seconds / 1e6 for name, seconds in times.items() if "thread" not in name}
    report = {
        "slides": [path.name for path in slides],
        "tiles": len(tiles),
        "rounds": options.rounds,
        "load": [round(value, 1) for value in os.getloadavg()],
        "megapixels_per_second": {name: round(value) for name, value in speed.items()},
        "ratios": {
            "wsi_attn / opencv": round(speed["wsi_attn"] / speed["opencv"], 2),
            "wsi_attn / numpy": round(speed["wsi_attn"] / speed["numpy"], 1),
            "decode and all scores / decode, time": round(times["decode and all scores"] / times["decode"], 2),
        },
        "two_threads": {
            "cpu": round(times["wsi_attn, 2 threads"] / times["wsi_attn, 1 thread"], 2),
            "wall": round(wall["wsi_attn, 1 thread"] / wall["wsi_attn, 2 threads"], 2),
        },
        "largest_difference_from_opencv": {
            name: round(float(np.abs(ours[:, index] - theirs[:, index]).max()), 5) for index, name in enumerate(NAMES)
        },
        "largest_difference_from_numpy": {
            name: round(float(np.abs(ours[:: max(1, len(tiles) // 16), index] - plain[:, index]).max()), 5)
            for index, name in enumerate(NAMES)
        },
        "mean": {name: round(float(ours[:, index].mean()), 4) for index, name in enumerate(NAMES)},
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
