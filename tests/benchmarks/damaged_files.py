"""What damage to files of slides is noticed: python tests/benchmarks/damaged_files.py SLIDE [--cases 2000] [--seed 0].

Writes small slides of many formats from the pixels of SLIDE, alters one of them at a random place with a seeded
generator, outside or inside the data of its tiles, and reads all its levels in a process of its own. Prints a line for
each case that is neither refused, nor unreadable, nor the same pixels without a warning, and each crash, exception of
another kind, read of more than 20 s and use of more than 1.5 GB; then the counts. Needs fork. What remains are changes
that no checksum protects: values of samples, palettes, quantisation tables, resolutions.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import openslide
import tifffile
from PIL import Image

from tests.dicom_files import write_series
from tests.tiff_files import Streams, halves, pyramid_of, write_generic, write_leica, write_philips, write_svs
from wsi_attn.errors import SlideReadError, WsiAttnError
from wsi_attn.slides.open import open_slide

BLOCK = 256
LARGEST = 30_000_000
"""Pixels of a level of which only the corner is read."""

SECONDS, MEGABYTES = 20, 1500
KINDS = ("bit", "bit", "byte", "2 zeros", "4 zeros", "4 x 0xff", "reversed", "data bit", "data 400 zeros")

Levels = list[tuple[np.ndarray, np.ndarray]]
"""Pixels of each level, and which of them were read."""


def write_all(folder: Path, pixels: np.ndarray) -> None:
    """A file for each format."""
    levels = pyramid_of(pixels, halves(pixels, 1))
    write_svs(folder / "aperio.svs", levels)
    write_generic(folder / "jpeg.tif", levels, streams=Streams())
    write_philips(folder / "philips.tiff", pixels, 2, 256)
    write_leica(folder / "leica.scn", levels, offset_nm=100_000)
    for compression in ("deflate", "lzw", "none", "zstd"):
        write_generic(folder / f"tiles_{compression}.tif", levels, (128, 128), compression)
        tifffile.imwrite(
            folder / f"strips_{compression}.tif",
            pixels,
            photometric="rgb",
            rowsperstrip=32,
            metadata=None,
            compression=compression,
        )
    tifffile.imwrite(folder / "planar.ome.tif", np.moveaxis(pixels, -1, 0).copy(), photometric="rgb", tile=(128, 128))
    for suffix in ("png", "jpg", "jp2", "webp"):
        Image.fromarray(pixels).save(folder / f"image.{suffix}")
    (write_series(folder / "series", [pixels]) / "level-0.dcm").rename(folder / "dicom.dcm")
    (folder / "series").rmdir()


def read_levels(path: Path) -> tuple[Levels, list[str]]:
    """All levels block by block, and the warnings."""
    found: Levels = []
    with open_slide(path) as slide:
        for index, level in enumerate(slide.info.levels):
            width, height = level.size if level.size.width * level.size.height < LARGEST else (1024, 1024)
            pixels, read = np.zeros((height, width, 3), np.uint8), np.ones((height, width), np.bool_)
            for y in range(0, height, BLOCK):
                for x in range(0, width, BLOCK):
                    part = slice(y, min(y + BLOCK, height)), slice(x, min(x + BLOCK, width))
                    size = part[1].stop - x, part[0].stop - y
                    corner = round(x * level.downsample_x), round(y * level.downsample_y)
                    try:
                        pixels[part] = slide.read_region(corner, index, size)
                    except SlideReadError:
                        read[part] = False
            found.append((pixels, read))
        return found, list(slide.info.warnings)


def tile_bytes(path: Path) -> list[tuple[int, int]]:
    """Offset and length of each strip or tile of a TIFF; the whole file for others."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return [place for page in tiff.pages for place in zip(page.dataoffsets, page.databytecounts, strict=True)]
    except tifffile.TiffFileError:
        return [(0, path.stat().st_size)]


def altered(data: bytes, places: list[tuple[int, int]], kind: str, chance: random.Random) -> tuple[bytes, int]:
    """The file with one damage, and where."""
    begin, length = chance.choice([place for place in places if place[1] > 40])
    if kind.startswith("data"):
        at = begin + chance.randrange(length)
    else:
        inside = np.zeros(len(data), np.bool_)
        for start, count in places:
            inside[start : start + count] = True
        free = np.flatnonzero(~inside)
        at = int(free[chance.randrange(len(free))]) if len(free) else chance.randrange(len(data))
    new = bytearray(data)
    length = {"2 zeros": 2, "4 zeros": 4, "4 x 0xff": 4, "reversed": 4, "data 400 zeros": 400}.get(kind, 1)
    part = data[at : at + length]
    if kind.endswith("bit"):
        part = bytes([part[0] ^ 1 << chance.randrange(8)])
    elif kind == "byte":
        part = bytes([chance.randrange(256)])
    elif kind == "reversed":
        part = part[::-1]
    else:
        part = (b"\xff" if "ff" in kind else b"\0") * len(part)
    new[at : at + len(part)] = part
    return bytes(new), at


def outcome(path: Path, wanted: Levels) -> str:
    """What reading the file ends with, in a word and a reason."""
    try:
        found, warnings = read_levels(path)
    except WsiAttnError:
        return "refused"
    except Exception as error:
        return f"EXCEPTION {type(error).__name__}: {error}"
    unread = not all(read.all() for _, read in found)
    if [pixels.shape for pixels, _ in found] != [pixels.shape for pixels, _ in wanted]:
        sizes = [pixels.shape[1::-1] for pixels, _ in found]
        return f"{'warned' if warnings or unread else 'OTHER LEVELS'} {sizes}"
    different = [
        float(((ours != theirs).any(axis=-1) & read).mean())
        for (ours, read), (theirs, _) in zip(found, wanted, strict=True)
    ]
    if any(different):
        return f"{'warned' if warnings else 'OTHER PIXELS'} {different}"
    return "unreadable" if unread else "same"


def in_fork(path: Path, wanted: Levels) -> str:
    """As `outcome`, with crashes, time and memory."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        signal.alarm(SECONDS)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.write(writer, outcome(path, wanted).encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        found = pipe.read().decode()
    _, status, usage = os.wait4(child, 0)
    if usage.ru_maxrss >> 10 > MEGABYTES:
        return f"MEMORY {usage.ru_maxrss >> 10} MB, {found}"
    return found or f"CRASH or more than {SECONDS} s: status {os.waitstatus_to_exitcode(status)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, counts = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with openslide.OpenSlide(options.slide) as slide:
            write_all(work, np.array(slide.read_region((700, 900), 0, (600, 500)).convert("RGB")))
        sound = {path: (path.read_bytes(), tile_bytes(path), read_levels(path)[0]) for path in sorted(work.iterdir())}
        for case in range(options.cases):
            path = list(sound)[case % len(sound)]
            data, places, wanted = sound[path]
            kind = chance.choice(KINDS)
            damaged, at = altered(data, places, kind, chance)
            if damaged == data:
                continue
            path.write_bytes(damaged)
            found = in_fork(path, wanted)
            path.write_bytes(data)
            word = found.partition(" ")[0]
            counts[f"{'data' if kind.startswith('data') else 'tags'}: {word}"] += 1
            if word.isupper():
                sys.stdout.write(f"{path.name}, case {case}, {kind} at {at}: {found}\n")
    sys.stdout.write(json.dumps(dict(sorted(counts.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
