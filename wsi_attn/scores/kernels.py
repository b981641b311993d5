"""Numba kernels that compute all scores of a tile in one pass over strips that fit the cache.

Importing this module loads Numba, so `scores.py` imports it on first use. The tests compare each kernel with a plain
NumPy implementation, compiled and interpreted (`NUMBA_DISABLE_JIT=1`).

Each strip of pixels is first split into planes; all later loops run over contiguous bytes, which LLVM vectorises. Three
techniques preserve vectorisation: casts back to narrow types (Numba widens every integer sum to 64 bit), counts per
column instead of one count (one byte each, flushed before overflow), and logarithms of products.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from wsi_attn.scores.sums import (
    COUNT_FOLD,
    COUNT_PEN,
    COUNT_TISSUE,
    DENSITY,
    ENTROPY,
    ENTROPY_BITS,
    FOCUS,
    FOLD,
    LOG2_RED,
    PEN,
    SHARPNESS,
    SQUARES_LAPLACE,
    TISSUE,
    VOLLATH,
)
from wsi_attn.threads import thread_limit

BLAS = "scipy.linalg.cython_blas"
if BLAS not in sys.modules:  # Numba would load SciPy (a third of a second) for matrix products that no kernel uses
    sys.modules[BLAS] = None  # type: ignore[assignment]
    with suppress(ImportError):  # if Numba moves it, SciPy is loaded as usual
        import numba.np.arraymath
    del sys.modules[BLAS]

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

CHROMA, BRIGHTNESS, DARKNESS = 0, 1, 2

GREY = FOCUS | SHARPNESS | ENTROPY
BINNED = DENSITY | PEN | FOLD

STRIP = 32
"""Rows of a strip; even, so that no 2x2 cell spans two strips."""

PIXELS = 8192
"""Pixels of a strip, whose planes then stay in the cache; the fastest of 2,048 to 16,384."""

SEGMENT = 1024
"""Number of pixels after which 32-bit sums of squares, each at most 1020², are flushed."""

FULL_COUNT = 255
"""Number of strips after which one-byte counts are flushed."""

FULL_PRODUCT = 7
"""Number of strips after which products, each growing by up to 2^16, could exceed the range of a float32."""

ROOT2, TWO_OVER_LN2 = math.sqrt(2), 2 / math.log(2)

INK_BLUE, INK_VIOLET, INK_GREEN, INK_RED = 90, 130, 30, 110
"""Minimum differences between channels for ink, in grey values; `docs/scores.md` describes the rules."""

INK_TEAL, INK_GREENER = 30, 10

INK_BLACK, INK_GREY = 50, 15
"""Black ink is darker than the first value and no more colourful than the second."""

FOLD_EXCESS = 64
"""Excess of saturation over brightness in a fold, in 255ths."""


def _kernel(**options: Any) -> Callable[[Kernel], Kernel]:
    """Decorate a function to be compiled by `numba.njit(**options)` on its first call.

    Numba caches the machine code on disk. If it finds no writable folder (a read-only installation without a home
    folder, as in many containers), each process compiles again; `NUMBA_CACHE_DIR` sets a folder.
    """

    def decorate(function: Kernel) -> Kernel:
        try:
            return cast(Kernel, numba.njit(cache=True, **options)(function))
        except RuntimeError:  # "cannot cache function: no locator available"
            return cast(Kernel, numba.njit(**options)(function))

    return decorate


@_kernel(nogil=True)
def split_planes(
    pixels: NDArray[np.uint8],
    red: NDArray[np.uint8],
    green: NDArray[np.uint8],
    blue: NDArray[np.uint8],
) -> None:
    """Split RGBRGB... into planes; LLVM recognises loads of stride 3."""
    for x in range(red.size):
        red[x] = pixels[3 * x]
        green[x] = pixels[3 * x + 1]
        blue[x] = pixels[3 * x + 2]


@_kernel(nogil=True)
def count_tissue(
    red: NDArray[np.uint8],
    green: NDArray[np.uint8],
    blue: NDArray[np.uint8],
    measure: int,
    threshold: np.uint8,
    counts: NDArray[np.uint8],
) -> None:
    """Add 1 to the count of every pixel with measure > threshold."""
    if measure == CHROMA:
        for x in range(red.size):
            value = np.uint8(max(red[x], green[x], blue[x]) - min(red[x], green[x], blue[x]))
            counts[x] += np.uint8(value > threshold)
    elif measure == BRIGHTNESS:
        for x in range(red.size):
            counts[x] += np.uint8(max(red[x], green[x], blue[x]) > threshold)
    else:
        for x in range(red.size):
            value = np.uint8(np.uint8(255) - max(red[x], green[x], blue[x]))
            counts[x] += np.uint8(value > threshold)


@_kernel(nogil=True)
def grey_rows(
    red: NDArray[np.uint8],
    green: NDArray[np.uint8],
    blue: NDArray[np.uint8],
    even: int,
    grey: NDArray[np.uint8],
    width: int,
    count: int,
) -> None:
    """Luma of ITU-R BT.601 with weights in 256ths, at most 65,408, so it fits 16 bits; both ends are repeated."""
    stride = width + 2
    for row in range(count):
        source, target = np.uintp(row * even), np.uintp(row * stride + 1)
        for x in range(width):
            i = source + np.uintp(x)
            weighted = 77 * np.uint16(red[i]) + 150 * np.uint16(green[i]) + 29 * np.uint16(blue[i])
            grey[target + np.uintp(x)] = (weighted + 128) >> 8
        grey[row * stride] = grey[row * stride + 1]
        grey[row * stride + width + 1] = grey[row * stride + width]


@_kernel(nogil=True)
def laplace_squares(grey: NDArray[np.uint8], width: int, count: int, line: NDArray[np.int16]) -> np.int64:
    """Sum of squared Laplacians over all rows except the first and last of `count` + 2.

    The Laplacian itself sums to 0 over a tile with repeated edges: every difference of neighbours occurs once with each
    sign. It is written to a line first, since only then LLVM multiplies and adds 16-bit pairs at once.
    """
    stride = width + 2
    north, west, centre = grey[1:], grey[stride:], grey[stride + 1 :]
    east, south = grey[stride + 2 :], grey[2 * stride + 1 :]
    total = np.int64(0)
    for row in range(count):
        for start in range(0, width, SEGMENT):
            base, size = np.uintp(row * stride + start), min(SEGMENT, width - start)
            for x in range(size):
                i = base + np.uintp(x)
                around = np.int16(east[i]) + np.int16(west[i]) + np.int16(north[i]) + np.int16(south[i])
                line[x] = around - np.int16(4) * np.int16(centre[i])
            part = np.int32(0)
            for x in range(size):
                part = np.int32(part + np.int32(np.int32(line[x]) * np.int32(line[x])))
            total += np.int64(part)
    return total


@_kernel(nogil=True)
def products_of_steps(
    weights: NDArray[np.uint8], here: NDArray[np.uint8], there: NDArray[np.uint8], stride: int, width: int, count: int
) -> np.int64:
    """Sum of weights (here - there) over `count` rows of `width`."""
    total = np.int64(0)
    for row in range(count):
        for start in range(0, width, SEGMENT):
            base = np.uintp(row * stride + start)
            part = np.int32(0)
            for x in range(min(SEGMENT, width - start)):
                i = base + np.uintp(x)
                step = np.int16(np.int16(here[i]) - np.int16(there[i]))
                part = np.int32(part + np.int32(np.int32(step) * np.int32(np.int16(weights[i]))))
            total += np.int64(part)
    return total


@_kernel(nogil=True)
def squares(row: NDArray[np.uint8]) -> np.int64:
    """Sum of squares of a row."""
    total = np.int64(0)
    for x in range(row.size):
        total += np.int64(row[x]) * np.int64(row[x])
    return total


@_kernel(nogil=True)
def vollath_sum(grey: NDArray[np.uint8], width: int, count: int) -> np.int64:
    """Squared differences of pixels two apart minus those of neighbours, along both axes; rows as in `laplace_squares`.

    (e - w)² - (c - w)² = 2 w (c - e) + e² - c², and the squares cancel except at the ends: this function handles
    the ends of rows; the caller adds the squares of the tile's last row and subtracts those of its first.
    """
    stride = width + 2
    north, west, centre = grey[1:], grey[stride:], grey[stride + 1 :]
    east, south = grey[stride + 2 :], grey[2 * stride + 1 :]
    total = products_of_steps(west, centre, east, stride, width, count)
    total += products_of_steps(north, centre, south, stride, width, count)
    total *= 2
    for row in range(1, count + 1):
        first, last = np.int64(grey[row * stride]), np.int64(grey[row * stride + width + 1])
        total += last * last - first * first
    return total


@_kernel(nogil=True)
def add_to_histogram(grey: NDArray[np.uint8], width: int, count: int, histogram: NDArray[np.int32]) -> None:
    """Count every second pixel of every second row in eight alternating histograms, so equal neighbours never stall."""
    stride = width + 2
    for row in range(0, count, 2):
        base = np.uintp(row * stride + 1)
        for x in range(0, width // 16 * 16, 16):
            i = base + np.uintp(x)
            histogram[grey[i]] += 1
            histogram[np.uintp(grey[i + np.uintp(2)]) + np.uintp(256)] += 1
            histogram[np.uintp(grey[i + np.uintp(4)]) + np.uintp(512)] += 1
            histogram[np.uintp(grey[i + np.uintp(6)]) + np.uintp(768)] += 1
            histogram[np.uintp(grey[i + np.uintp(8)]) + np.uintp(1024)] += 1
            histogram[np.uintp(grey[i + np.uintp(10)]) + np.uintp(1280)] += 1
            histogram[np.uintp(grey[i + np.uintp(12)]) + np.uintp(1536)] += 1
            histogram[np.uintp(grey[i + np.uintp(14)]) + np.uintp(1792)] += 1
        for x in range(width // 16 * 16, width, 2):
            histogram[grey[base + np.uintp(x)]] += 1


@_kernel(nogil=True)
def fill_log2(values: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Log2 of integers from 0 to 2^24 with an error of 1e-9: an atanh series, which is vectorised, unlike a call."""
    singles = values.astype(np.float32)
    bits = singles.view(np.int32)
    for x in range(values.size):
        exponent = np.float64((bits[x] >> np.int32(23)) - np.int32(127))
        # values / 2^exponent, without dividing: in [1, 2)
        bits[x] = np.int32(bits[x] & np.int32(0x7FFFFF)) | np.int32(0x3F800000)
        out[x] = exponent
    for x in range(values.size):
        mantissa = np.float64(singles[x])
        t = (mantissa - ROOT2) / (mantissa + ROOT2)
        u = t * t
        out[x] += 0.5 + TWO_OVER_LN2 * t * (1 + u * (1 / 3 + u * (1 / 5 + u * (1 / 7 + u * (1 / 9 + u / 11)))))


@_kernel(nogil=True)
def entropy_of(histogram: NDArray[np.int32]) -> float:
    """Shannon entropy in bits of counts in eight parts."""
    counts = np.zeros(256, np.float64)
    for part in range(8):
        for grey in range(256):
            counts[grey] += histogram[256 * part + grey]
    logs = np.empty(256, np.float64)
    fill_log2(counts, logs)
    total = counts.sum()
    return max(0.0, math.log2(total) - (counts * logs).sum() / total) if total > 0 else 0.0


@_kernel(nogil=True)
def halve_rows(plane: NDArray[np.uint8], width: int, even: int, count: int, out: NDArray[np.uint8]) -> None:
    """Rounded means of 2x2 pixels of `count` rows; an odd last row or column is repeated.

    Two neighbours of a row are read as one 16-bit number in either byte order.
    """
    if even > width:
        for row in range(count):
            plane[row * even + width] = plane[row * even + width - 1]
    if count % 2:
        plane[count * even : (count + 1) * even] = plane[(count - 1) * even : count * even]
    size = even // 2
    upper = plane.view(np.uint16)
    lower = upper[size:]
    for row in range((count + 1) // 2):
        source, target = np.uintp(2 * row * size), np.uintp(row * size)
        for x in range(size):
            i = source + np.uintp(x)
            above = (upper[i] & np.uint16(255)) + (upper[i] >> np.uint16(8))
            below = (lower[i] & np.uint16(255)) + (lower[i] >> np.uint16(8))
            out[target + np.uintp(x)] = np.uint16(above + below + np.uint16(2)) >> np.uint16(2)


@_kernel(nogil=True, fastmath={"contract"})
def multiply(first: NDArray[np.uint8], second: NDArray[np.uint8], products: NDArray[np.float32]) -> None:
    """Multiply every product by 1 + its value; `contract` lets p v + p be rounded once."""
    for x in range(products.size):
        product = products[x]
        product = product * np.float32(first[x]) + product
        products[x] = product * np.float32(second[x]) + product


@_kernel(nogil=True)
def take_exponents(products: NDArray[np.int32]) -> np.int64:
    """Sum the exponents of float32 numbers >= 1, viewed as integers, and reset them to 0: values in [1, 2)."""
    total = np.int32(0)
    for x in range(products.size):
        bits = products[x]
        total = np.int32(total + np.int32(np.int32(bits >> np.int32(23)) - np.int32(127)))
        products[x] = np.int32(bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)
    return np.int64(total)


@_kernel(nogil=True)
def log2_of(products: NDArray[np.float32]) -> float:
    """Log2 of the product of numbers in [1, 2)."""
    partial = np.ones(16, np.float64)  # sixteen, so that no product waits for the previous one
    total = 0.0
    for start in range(0, products.size, 16 * 512):
        part = products[start : start + 16 * 512]
        for step in range(part.size // 16):
            for lane in range(16):
                partial[lane] *= part[16 * step + lane]
        for x in range(part.size // 16 * 16, part.size):
            partial[x % 16] *= part[x]
        for lane in range(16):
            total += math.log2(partial[lane])
            partial[lane] = 1.0
    return total


@_kernel(nogil=True)
def count_pen(
    red: NDArray[np.uint8], green: NDArray[np.uint8], blue: NDArray[np.uint8], counts: NDArray[np.uint8]
) -> None:
    """Add 1 to the count of every cell that matches ink; max(a, b) - b is a - b or 0 in one instruction."""
    for x in range(red.size):
        r, g, b = red[x], green[x], blue[x]
        green_over_red, blue_over_red = np.uint8(max(g, r) - r), np.uint8(max(b, r) - r)
        green_over_blue = np.uint8(max(g, b) - b)
        greenest, bluest = max(g, b), max(r, g)
        teal = (green_over_red > INK_TEAL) & (blue_over_red > INK_BLUE)
        violet = np.uint8(max(b, bluest) - bluest) > INK_VIOLET
        grass = (green_over_red > INK_GREEN) & (green_over_blue > INK_GREENER)
        crimson = np.uint8(max(r, greenest) - greenest) > INK_RED
        brightest = max(r, greenest)
        black = (brightest < INK_BLACK) & (np.uint8(brightest - min(r, g, b)) < INK_GREY)
        counts[x] += np.uint8(teal | violet | grass | crimson | black)


@_kernel(nogil=True)
def count_fold(
    red: NDArray[np.uint8], green: NDArray[np.uint8], blue: NDArray[np.uint8], counts: NDArray[np.uint8]
) -> None:
    """Add 1 to the count of every cell with saturation - brightness > FOLD_EXCESS / 255, multiplied out."""
    for x in range(red.size):
        brightest = max(red[x], green[x], blue[x])
        chroma = np.int32(np.uint8(brightest - min(red[x], green[x], blue[x])))
        bright = np.int32(brightest)
        fold = np.int32(chroma * np.int32(255)) > np.int32(bright * np.int32(bright + np.int32(FOLD_EXCESS)))
        counts[x] += np.uint8(fold)


@_kernel(nogil=True)
def take_counts(counts: NDArray[np.uint8]) -> np.int64:
    """Sum the counts and reset them to 0."""
    total = np.int32(0)
    for x in range(counts.size):
        total = np.int32(total + np.int32(counts[x]))
        counts[x] = 0
    return np.int64(total)


@_kernel(nogil=True)
def fill_planes(tile: NDArray[np.uint8], top: int, width: int, count: int, planes: NDArray[np.uint8]) -> None:
    """Split `count` rows of a tile into planes with rows of even length, of which an added column is 0."""
    even = width + width % 2
    size = count * even
    if tile.shape[1] == 3 * width and even == width:
        pixels = tile[top : top + count].reshape(3 * size)
        split_planes(pixels, planes[0, :size], planes[1, :size], planes[2, :size])
        return
    planes[:, :size] = 0
    for row in range(count):
        part = slice(row * even, row * even + width)
        split_planes(tile[top + row, : 3 * width], planes[0, part], planes[1, part], planes[2, part])


@_kernel(nogil=True)
def add_steps(
    grey: NDArray[np.uint8],
    width: int,
    count: int,
    groups: int,
    at_top: bool,
    at_bottom: bool,
    line: NDArray[np.int16],
    sums: NDArray[np.float64],
) -> None:
    """Add the sums over differences of pixels of a strip, and keep its last two rows of grey for the next one."""
    stride = width + 2
    first, last = 1, count  # centre rows: the last of the previous strip, all but the last of this one
    if at_top:
        grey[stride : 2 * stride] = grey[2 * stride : 3 * stride]
        first = 2
    if at_bottom:
        grey[(count + 2) * stride : (count + 3) * stride] = grey[(count + 1) * stride : (count + 2) * stride]
        last = count + 1
    around = grey[(first - 1) * stride : (last + 2) * stride]
    if groups & FOCUS:
        sums[SQUARES_LAPLACE] += laplace_squares(around, width, last - first + 1, line)
    if groups & SHARPNESS:
        sums[VOLLATH] += vollath_sum(around, width, last - first + 1)
        if at_top:
            sums[VOLLATH] -= squares(grey[2 * stride + 1 : 3 * stride - 1])
        if at_bottom:
            sums[VOLLATH] += squares(grey[(count + 1) * stride + 1 : (count + 2) * stride - 1])
    grey[: 2 * stride] = grey[count * stride : (count + 2) * stride]


@_kernel(nogil=True)
def add_binned(
    planes: NDArray[np.uint8],
    width: int,
    count: int,
    groups: int,
    binned: NDArray[np.uint8],
    products: NDArray[np.float32],
    marks: NDArray[np.uint8],
) -> None:
    """Multiply the densities of the 2x2 cells of a strip into `products`, and count pen and folds in `marks`."""
    even, half = width + width % 2, products.shape[1]
    for channel in range(3):
        halve_rows(planes[channel], width, even, count, binned[channel])
    size = (count + 1) // 2 * (even // 2)
    if groups & DENSITY:
        for channel in range(3):
            binned[channel, size:] = 0
            multiply(binned[channel, :half], binned[channel, half:], products[channel])
    if groups & PEN:
        count_pen(binned[0, :size], binned[1, :size], binned[2, :size], marks[0, :size])
    if groups & FOLD:
        count_fold(binned[0, :size], binned[1, :size], binned[2, :size], marks[1, :size])


@_kernel(nogil=True)
def sum_tile(
    tile: NDArray[np.uint8],
    width: int,
    height: int,
    groups: int,
    measure: int,
    threshold: int,
    sums: NDArray[np.float64],
) -> None:
    """Add the sums selected by `groups` over a tile (H, 3 W), its first `height` rows and `width` columns, to
    zeroed `sums`.
    """
    even, stride = width + width % 2, width + 2
    rows = min(STRIP, max(2, PIXELS // width // 2 * 2))
    cells = even // 2 * (rows // 2)
    half = (cells + 1) // 2
    planes, binned = np.empty((3, rows * even), np.uint8), np.zeros((3, 2 * half), np.uint8)
    tissue, marks = np.zeros(rows * even, np.uint8), np.zeros((2, cells), np.uint8)
    products = np.ones((3, half), np.float32)
    exponents = products.view(np.int32)
    grey = np.empty((rows + 3) * stride, np.uint8)  # two rows of the previous strip, this strip, one row below the tile
    line = np.empty(min(width, SEGMENT), np.int16)
    histogram = np.zeros(8 * 256, np.int32)
    limit = np.uint8(min(max(threshold, 0), 255))
    for top in range(0, height, rows):
        strips = top // rows + 1
        count = min(rows, height - top)
        fill_planes(tile, top, width, count, planes)
        if groups & TISSUE and threshold >= 0:
            # Rows one by one if they have an added column, which must not count.
            step = count * even if even == width else even
            for start in range(0, count * even, step):
                part = slice(start, start + step - even + width)
                count_tissue(planes[0, part], planes[1, part], planes[2, part], measure, limit, tissue[part])
        if groups & GREY:
            grey_rows(planes[0], planes[1], planes[2], even, grey[2 * stride :], width, count)
        if groups & ENTROPY:
            add_to_histogram(grey[2 * stride :], width, count, histogram)
        if groups & (FOCUS | SHARPNESS):
            add_steps(grey, width, count, groups, top == 0, top + count == height, line, sums)
        if groups & BINNED:
            add_binned(planes, width, count, groups, binned, products, marks)
        if groups & DENSITY and strips % FULL_PRODUCT == 0:
            for channel in range(3):
                sums[LOG2_RED + channel] += take_exponents(exponents[channel])
        if strips % FULL_COUNT == 0:
            sums[COUNT_TISSUE] += take_counts(tissue)
            sums[COUNT_PEN] += take_counts(marks[0])
            sums[COUNT_FOLD] += take_counts(marks[1])
    if groups & ENTROPY:
        sums[ENTROPY_BITS] = entropy_of(histogram)
    if groups & DENSITY:
        for channel in range(3):
            sums[LOG2_RED + channel] += take_exponents(exponents[channel])
            sums[LOG2_RED + channel] += log2_of(products[channel])
    if groups & TISSUE:
        sums[COUNT_TISSUE] += take_counts(tissue) if threshold >= 0 else width * height
    sums[COUNT_PEN] += take_counts(marks[0])
    sums[COUNT_FOLD] += take_counts(marks[1])


@_kernel(nogil=True)
def sum_serial(
    tiles: NDArray[np.uint8],
    valid: NDArray[np.int64],
    groups: int,
    measure: int,
    threshold: int,
    sums: NDArray[np.float64],
) -> None:
    """`sum_tile` for tiles (N, H, 3 W) into zeros (N, COLUMNS), on the calling thread, without the GIL."""
    for index in range(tiles.shape[0]):
        width, height = valid[index, 0], valid[index, 1]
        if width > 0 and height > 0:
            sum_tile(tiles[index], width, height, groups, measure, threshold, sums[index])


@_kernel(parallel=True)
def sum_parallel(
    tiles: NDArray[np.uint8],
    valid: NDArray[np.int64],
    groups: int,
    measure: int,
    threshold: int,
    sums: NDArray[np.float64],
) -> None:
    """`sum_serial` on several threads, one tile at a time; see `limited_threads`."""
    for index in numba.prange(tiles.shape[0]):
        width, height = valid[index, 0], valid[index, 1]
        if width > 0 and height > 0:
            sum_tile(tiles[index], width, height, groups, measure, threshold, sums[index])


@contextmanager
def limited_threads() -> Iterator[None]:
    """Limit the threads of parallel kernels called inside to `thread_limit` and to the caller's Numba setting."""
    before = numba.get_num_threads()  # of the calling thread
    numba.set_num_threads(min(before, thread_limit()))
    try:
        yield
    finally:
        numba.set_num_threads(before)
