"""What damage to compressed tiles is noticed: python tests/benchmarks/damage.py SLIDE [--trials 400] [--seed 0].

Alters the data of tiles (behind the headers, before the end marker) with a seeded generator, and counts what the
structural check finds, what strict decoding finds, and what decodes without a warning to other pixels than before.
`lenient` is what a decoder that ignores warnings reports. JPEG tiles of level 0 are altered as they
are; `--jpeg2000` compresses their pixels as JPEG 2000 first. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import imagecodecs
import numpy as np

from wsi_attn.errors import TileDecodeError
from wsi_attn.geometry import Size
from wsi_attn.slide.encoding import JPEG, JPEG2000, TileEncoding
from wsi_attn.slides.open import open_slide

KINDS = ("bit flipped", "byte random", "16 bytes zeroed", "400 bytes zeroed", "64 bytes removed", "second half cut off")


def altered(data: bytes, kind: str, first: int, rng: np.random.Generator) -> bytes:
    """A tile with one damage between byte `first` and its end marker."""
    found = bytearray(data)
    length = {"16 bytes zeroed": 16, "400 bytes zeroed": 400, "64 bytes removed": 64}.get(kind, 1)
    place = int(rng.integers(first, max(first + 1, len(data) - 2 - length)))
    if kind == "bit flipped":
        found[place] ^= 1 << int(rng.integers(8))
    elif kind == "byte random":
        found[place] = int(rng.integers(256))
    elif kind == "64 bytes removed":
        del found[place : place + length]
    elif kind == "second half cut off":
        del found[len(data) // 2 :]
    else:
        found[place : place + length] = bytes(len(found[place : place + length]))
    return bytes(found)


def lenient_pixels(encoding: TileEncoding, data: bytes) -> np.ndarray:
    """As a decoder that ignores warnings shows the tile."""
    if encoding.codec == JPEG:
        return imagecodecs.jpeg8_decode(
            data, tables=encoding.tables, colorspace=encoding.colorspace, outcolorspace="RGB"
        )
    return imagecodecs.jpeg2k_decode(data)


def outcome(encoding: TileEncoding, data: bytes, size: Size, pixels: np.ndarray) -> tuple[dict[str, bool], float]:
    """What finds the damage, and the share of pixels that are wrong where strict decoding does not."""
    found = {"structure": False, "strict": False, "lenient": False}
    wrong = 0.0
    try:
        encoding.check(data, size)
    except TileDecodeError:
        found["structure"] = True
    try:
        shown = encoding.decode(data)
        wrong = float((shown != pixels).any(axis=-1).mean()) if shown.shape == pixels.shape else 1.0
    except TileDecodeError:
        found["strict"] = True
    try:
        lenient_pixels(encoding, data)
    except (RuntimeError, ValueError):
        found["lenient"] = True
    return found, wrong


def measure(
    encoding: TileEncoding, tiles: list[bytes], size: Size, trials: int, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """A row per kind of damage; shares of the trials that changed a byte."""
    marker = b"\xff\xda" if encoding.codec == JPEG else b"\xff\x93"
    report = {}
    for kind in KINDS:
        counts: Counter[str] = Counter()
        shares = []
        for _ in range(trials):
            whole = tiles[int(rng.integers(len(tiles)))]
            damaged = altered(whole, kind, whole.index(marker) + 16, rng)
            if damaged == whole:
                continue
            found, wrong = outcome(encoding, damaged, size, encoding.decode(whole))
            counts["trials"] += 1
            counts.update(name for name, noticed in found.items() if noticed)
            counts["harmless"] += not found["strict"] and wrong == 0
            if wrong:
                shares.append(wrong)
        total = counts["trials"]
        report[kind] = {name: round(counts[name] / total, 3) for name in ("structure", "strict", "lenient", "harmless")}
        report[kind] |= {
            "unnoticed": round(len(shares) / total, 3),
            "wrong_pixels_median": round(float(np.median(shares)), 3) if shares else 0,
            "wrong_pixels_most": round(max(shares), 3) if shares else 0,
        }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jpeg2000", action="store_true")
    options = parser.parse_args()
    with open_slide(options.slide) as slide:
        source = slide.encoded_tiles(0)
        cells = [(row, column) for row, column in np.argwhere(source.lengths > 2000).tolist()]
        tiles, encoding = [bytes(data) for data in source.read(cells)], source.encoding
    if options.jpeg2000:
        pictures = [encoding.decode(data) for data in tiles]
        tiles = [bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", level=40)) for pixels in pictures]
        encoding = TileEncoding(JPEG2000)
    rng = np.random.default_rng(options.seed)
    report = measure(encoding, tiles, source.tile_size, options.trials, rng)
    print(json.dumps({"slide": options.slide.name, "codec": encoding.codec, "damage": report}, indent=1))


if __name__ == "__main__":
    main()
