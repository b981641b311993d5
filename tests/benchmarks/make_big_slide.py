"""A large synthetic slide in the layout of a scanner, made of the pixels of a small real slide.

    python tests/benchmarks/make_big_slide.py SEED.svs OUT.svs [--width 20000] [--height 20000] [--quality 85]

Random crops of the seed's tissue and glass are laid out as islands of tissue on some 60 % glass. Aperio description,
BigTIFF, JPEG tiles of 256 px without their tables, which lie in the tag JPEGTables; levels 1, 1/4, 1/16. Compression
is as real as the pixels are; the architecture of the tissue is not. Crops are compressed once and used again, so that
gigapixels take seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import cv2
import imagecodecs
import numpy as np
import openslide
import tifffile

TILE, BLOCK, KINDS = 256, 1024, 96
"""A block is 4 x 4 tiles of level 0, one tile of level 1, a quarter of a side of a tile of level 2."""


def crops(path: str, rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Blocks of tissue and of glass."""
    with openslide.OpenSlide(path) as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    coloured = (pixels.max(axis=-1).astype(int) - pixels.min(axis=-1) > 25).astype(np.float32)
    height, width = coloured.shape
    places = [(int(rng.integers(0, width - BLOCK)), int(rng.integers(0, height - BLOCK))) for _ in range(3000)]
    share = [coloured[y : y + BLOCK, x : x + BLOCK].mean() for x, y in places]
    order = np.argsort(share)

    def cut(index: int) -> np.ndarray:
        x, y = places[index]
        return np.rot90(pixels[y : y + BLOCK, x : x + BLOCK], int(rng.integers(4))).copy()

    glass_tone = np.median(pixels[coloured == 0], axis=0)
    noise = pixels[coloured == 0][: 64 * 64].reshape(64, 64, 3)
    glass = [np.tile(np.rot90(noise, turn), (BLOCK // 64, BLOCK // 64, 1)) for turn in range(4)]
    assert glass_tone.min() > 180, "the seed has no glass"
    return [cut(index) for index in order[-KINDS:]], glass


def layout(columns: int, rows: int, kinds: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(rows, columns): number of the block at each place; tissue first, glass after."""
    field = sum(
        cv2.resize(rng.standard_normal((cells, cells)), (columns, rows), interpolation=cv2.INTER_CUBIC) / cells**0.5
        for cells in (3, 6, 12)
    )
    tissue = field > np.quantile(field, 0.6)
    return np.where(tissue, rng.integers(0, kinds[0], tissue.shape), kinds[0] + rng.integers(0, kinds[1], tissue.shape))


def encode(pixels: np.ndarray, quality: int) -> tuple[bytes, bytes]:
    """Tables, and the stream without them."""
    stream = imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=quality)
    tables, rest, at = b"\xff\xd8", b"\xff\xd8", 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if stream[at + 1] in (0xDB, 0xC4):
            tables += stream[at:end]
        elif stream[at + 1] not in (0xE0, 0xEE):
            rest += stream[at:end]
        at = end
    return tables + b"\xff\xd9", rest + stream[at:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--width", type=int, default=20_000)
    parser.add_argument("--height", type=int, default=20_000)
    parser.add_argument("--quality", type=int, default=85)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    tissue, glass = crops(options.source, rng)
    blocks = tissue + glass
    places = layout(-(-options.width // BLOCK), -(-options.height // BLOCK), (len(tissue), len(glass)), rng)
    tables = encode(blocks[0][:TILE, :TILE], options.quality)[0]

    def tiles_of(block: np.ndarray) -> list[list[bytes]]:
        side = range(0, block.shape[0], TILE)
        return [[encode(block[y : y + TILE, x : x + TILE], options.quality)[1] for x in side] for y in side]

    full = [tiles_of(block) for block in blocks]
    quarter = [cv2.resize(block, (TILE, TILE), interpolation=cv2.INTER_AREA) for block in blocks]
    quarter_tiles = [encode(block, options.quality)[1] for block in quarter]
    small = [cv2.resize(block, (TILE // 4, TILE // 4), interpolation=cv2.INTER_AREA) for block in blocks]

    def level(factor: int) -> Iterator[bytes]:
        rows, columns = -(-options.height // factor // TILE), -(-options.width // factor // TILE)
        for row in range(rows):
            for column in range(columns):
                if factor == 1:
                    yield full[places[row // 4, column // 4]][row % 4][column % 4]
                elif factor == 4:
                    yield quarter_tiles[places[row, column]]
                else:
                    window = places[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
                    tile = np.full((TILE, TILE, 3), 255, np.uint8)
                    for (y, x), kind in np.ndenumerate(window):
                        tile[y * 64 : y * 64 + 64, x * 64 : x * 64 + 64] = small[kind]
                    yield encode(tile, options.quality)[1]

    with tifffile.TiffWriter(options.out, bigtiff=True) as writer:
        for factor in (1, 4, 16):
            size = -(-options.height // factor), -(-options.width // factor)
            writer.write(
                level(factor),
                shape=(*size, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                jpegtables=tables,
                subfiletype=int(factor > 1),
                metadata=None,
                software=False,
                description=(
                    "Aperio Image Library v12.0.0\r\n"
                    f"{options.width}x{options.height} [0,0 {size[1]}x{size[0]}] ({TILE}x{TILE}) JPEG/RGB "
                    f"Q={options.quality}|AppMag = 20|MPP = 0.5"
                ),
            )


if __name__ == "__main__":
    main()
