"""The definition of every score in plain NumPy, slowly; `docs/scores.md` says the same in words."""

import numpy as np

from wsi_attn.tissue.rules import measure_of

STAINS = np.array([(0.650, 0.704, 0.286), (0.072, 0.990, 0.105)])
STAINS /= np.linalg.norm(STAINS, axis=1, keepdims=True)
UNMIX = np.linalg.inv(np.vstack([STAINS, np.cross(*STAINS)]))[:, :2]


def grey_of(pixels):
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    return (77 * red + 150 * green + 29 * blue + 128) >> 8


def cells_of(pixels):
    """Rounded means of 2x2 pixels, an odd last row or column repeated."""
    even = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge").astype(np.int64)
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) >> 2


def around(pixels):
    """Grey, and its neighbours to the north, south, west and east, edges repeated."""
    padded = np.pad(grey_of(pixels), 1, mode="edge")
    return padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]


def focus(pixels):
    grey, north, south, west, east = around(pixels)
    return (north + south + west + east - 4 * grey).var()


def sharpness(pixels):
    grey, north, south, west, east = around(pixels)
    differences = (east - west) ** 2 - (grey - west) ** 2 + (south - north) ** 2 - (south - grey) ** 2
    return max(0.0, differences.mean() / 4)


def entropy(pixels):
    counts = np.bincount(grey_of(pixels)[::2, ::2].ravel(), minlength=256)
    share = counts[counts > 0] / counts.sum()
    return max(0.0, -(share * np.log2(share)).sum())


def densities(pixels):
    return -np.log10((cells_of(pixels) + 1) / 256).mean(axis=(0, 1))


def pen(pixels):
    red, green, blue = np.moveaxis(cells_of(pixels), -1, 0)
    brightest, darkest = cells_of(pixels).max(axis=-1), cells_of(pixels).min(axis=-1)
    teal = (green - red > 30) & (blue - red > 90)
    violet = blue - np.maximum(red, green) > 130
    grass = (green - red > 30) & (green - blue > 10)
    crimson = red - np.maximum(green, blue) > 110
    black = (brightest < 50) & (brightest - darkest < 15)
    return (teal | violet | grass | crimson | black).mean()


def fold(pixels):
    brightest, darkest = cells_of(pixels).max(axis=-1), cells_of(pixels).min(axis=-1)
    return (255 * (brightest - darkest) > brightest * (brightest + 64)).mean()


def tissue(pixels, measure, threshold):
    return (measure_of(pixels, measure).astype(int) > threshold).mean()


TWINS = {
    "focus": focus,
    "sharpness": sharpness,
    "entropy": entropy,
    "optical_density": lambda pixels: densities(pixels).mean(),
    "haematoxylin": lambda pixels: densities(pixels) @ UNMIX[:, 0],
    "eosin": lambda pixels: densities(pixels) @ UNMIX[:, 1],
    "pen": pen,
    "fold": fold,
}


def twin(tiles, valid, names, rule):
    """What `score_tiles` must return."""
    out = {name: np.zeros(len(tiles), np.float32) for name in names}
    for index, (tile, (width, height)) in enumerate(zip(tiles, valid, strict=True)):
        part = tile[:height, :width]
        for name in names if part.size else ():
            out[name][index] = tissue(part, *rule) if name == "tissue" else TWINS[name](part)
    return out
