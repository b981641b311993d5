"""Tissue detection robust to tinted or unevenly lit glass, pale stain, pen marks, black padding and dust.

The method uses optical density: per channel, the logarithm of glass over pixel, in which illumination, glass and white
balance cancel. Structures that absorb all colours equally (dust out of focus, shadows, the edge of a coverslip,
vignetting) have no *saturation*, the density of the most absorbed channel minus that of the least absorbed. Ink differs
from stain in the channels it absorbs: eosin and haematoxylin absorb green at least as much as red and transmit some
blue, and no area of a stained section is opaque in all channels.

Stains that absorb like inks (alcian blue, the green or blue of trichromes, dense melanin or carbon) are excluded by
this method; `otsu` does not detect ink and keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.slide import UInt8Array
from wsi_attn.tissue.mask import BoolArray, drop_specks
from wsi_attn.tissue.rules import Rule, fit_rule, measure_of, otsu_within

FloatArray = NDArray[np.float32]

BLACK = 40
"""Grey value below which there is only padding, ink or the background of fluorescence."""

DARK_SHARE = 0.1
"""A dark field has at least this share of pixels below `BLACK`."""

DARK_COLOUR = 90
"""In a dark field, most pixels that are not black have a channel below this value; a bright field transmits light."""

GREY_CHROMA = 1
"""A view with practically no pixel more colourful than this is grey; bare glass in colour has more noise."""

GLASS_GREY = 200
"""Minimum brightness of glass in a grey image."""

DIM_GLASS, GLASS_CHROMA, WARM_CHROMA = 140, 24, 32
"""Minimum brightness and maximum chroma of glass in a colour image. A warm lamp makes glass yellower than any equally
pale stain, so the limit is higher if blue is the darkest channel.
"""

GLASS_TEXTURE = 2.0
"""Maximum standard deviation of glass, grey values of the smoothed view, over `TEXTURE` squared pixels."""

TEXTURE = 9

GLASS_SHARE = 0.002
"""If fewer pixels than this share may be glass, there is none and `WHITE` replaces it."""

WHITE = 240.0

SATURATION_RANGE = (0.022, 0.08)
"""Allowed threshold on saturation, natural logarithms: about 5 and 20 grey values on bright glass."""

FAINT, SMOOTH = 0.06, 2.5
"""A pixel is plain if its saturation is below the first value and it is yellow, or if its texture is below this
multiple of that of glass.
"""

PLAIN_SHARE = 0.6
"""A piece with more than this share of plain pixels is not tissue."""

NOISE = 6.0
"""Minimum distance of tissue from glass, in standard deviations of glass (from its median deviation)."""

SIGNAL_RANGE = (8, 50)
"""Allowed threshold of fluorescence, grey values above the mode of the background."""

EVEN_SHARE = 0.2
"""Illumination is corrected only if at least this share of the view looks like glass."""

DARKNESS_RANGE = (10, 40)
"""Allowed threshold of grey images, grey values darker than glass."""

INK_AREA = 40
"""Minimum area of ink in pixels of the view; a stroke of a marker is dozens of pixels wide at 8 µm."""

INK_REACH = 9
"""Maximum distance in pixels of the view between the soft edge of a stroke and certain ink."""


class Detection(NamedTuple):
    """Result of a method: tissue, the rule that approximates it, and pixels that cleaning must not turn into tissue."""

    mask: BoolArray
    rule: Rule
    excluded: BoolArray


def find_robustly(pixels: UInt8Array, readable: BoolArray) -> Detection:
    """Detect tissue on a smoothed view, uint8 (rows, columns, 3), given its readable mask."""
    brightest = measure_of(pixels, "brightness")
    if _is_dark_field(pixels, brightest, readable):
        return _dark_field(brightest, readable)
    padding = _padding(brightest, readable)
    light = readable & ~padding
    if not light.any():
        return Detection(np.zeros_like(readable), Rule("darkness", 255), padding)
    if np.percentile(measure_of(pixels, "chroma")[light], 99.9) <= GREY_CHROMA:
        return _grey_field(brightest, light, padding)
    glass, is_glass = _glass(pixels, light)
    density = -np.log(np.maximum(pixels.astype(np.float32), 1) / glass)
    ink = _ink(density, light)
    saturation = density.max(axis=-1) - density.min(axis=-1)
    threshold = _threshold(saturation, light & ~ink, is_glass & ~ink)
    mask = _textured((saturation > threshold) & light & ~ink, density, _texture(brightest), is_glass)
    return Detection(mask, fit_rule(pixels, mask, light & ~ink), padding | ink)


def _is_dark_field(pixels: UInt8Array, brightest: UInt8Array, readable: BoolArray) -> bool:
    dark = readable & (brightest < BLACK)
    lit = readable & ~dark
    if dark.sum() < DARK_SHARE * readable.sum():
        return False
    if not lit.any():
        return True
    return float(np.median(pixels[lit].min(axis=-1))) < DARK_COLOUR


def _dark_field(brightest: UInt8Array, readable: BoolArray) -> Detection:
    values = brightest[readable]
    ground = values[values < BLACK]
    mode = int(np.bincount(ground).argmax())
    below = ground[ground <= np.median(ground)]
    noise = NOISE * 1.4826 * float(np.median(np.abs(below.astype(np.int16) - mode)))
    low = mode + round(max(SIGNAL_RANGE[0], min(noise, SIGNAL_RANGE[1])))
    rule = Rule("brightness", otsu_within(values, low, max(low, mode + SIGNAL_RANGE[1])))
    return Detection(_holds(brightest, rule.threshold) & readable, rule, np.zeros_like(readable))


def _grey_field(brightest: UInt8Array, light: BoolArray, padding: BoolArray) -> Detection:
    level = np.asarray(brightest * _evenness(brightest, light)).clip(0, 255).astype(np.uint8)
    glass = max(GLASS_GREY, round(float(np.percentile(level[light], 99))))
    darkness = np.asarray(255 - level)
    low, high = (255 - glass + bound for bound in DARKNESS_RANGE)
    rule = Rule("darkness", otsu_within(darkness[light], low, high))
    return Detection(_holds(darkness, rule.threshold) & light, rule, padding)


def _evenness(brightest: UInt8Array, light: BoolArray) -> FloatArray:
    """Gain that corrects the illumination: a quadratic of position fitted to smooth pixels not much darker than
    glass.
    """
    rows, columns = brightest.shape
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).astype(np.float32)
    likely = light & (_texture(brightest) < GLASS_TEXTURE) & (brightest >= DIM_GLASS)
    values = np.log(np.maximum(brightest, 1).astype(np.float32))
    field = np.zeros_like(values)
    for _ in range(5):
        if likely.sum() < EVEN_SHARE * light.sum():
            return np.ones_like(values)
        step = max(1, int(likely.sum()) // 20_000)
        solution = np.linalg.lstsq(terms[likely][::step], values[likely][::step], rcond=None)[0]
        field = np.asarray(terms @ solution, np.float32)
        likely &= values > field - 0.03
    return np.asarray(np.exp(np.clip(np.percentile(field[light], 99.5) - field, 0, 0.5)), np.float32)


def _holds(values: UInt8Array, threshold: int) -> BoolArray:
    return np.asarray(values.astype(np.int16) > threshold)


def _padding(brightest: UInt8Array, readable: BoolArray) -> BoolArray:
    """Black areas that touch the border of the view, which the scanner did not image, and their blurred edges."""
    dark = (brightest < BLACK) & readable
    _, labels = cv2.connectedComponents(dark.astype(np.uint8), connectivity=8)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    touching = np.isin(labels, np.unique(edge[edge > 0]))
    return np.asarray(cv2.dilate(touching.astype(np.uint8), np.ones((9, 9), np.uint8)), np.bool_) & readable


def _glass(pixels: UInt8Array, light: BoolArray) -> tuple[FloatArray, BoolArray]:
    """Colour of glass, the mode of bright, nearly colourless pixels, and the mask of pixels similar to it."""
    brightest, chroma = measure_of(pixels, "brightness"), measure_of(pixels, "chroma")
    top = float(np.percentile(brightest[light], 99.5))
    most = np.where(pixels.argmin(axis=-1) == 2, WARM_CHROMA, GLASS_CHROMA)
    likely = light & (brightest >= max(DIM_GLASS, top - 40)) & (chroma <= most)
    likely &= _texture(brightest) < GLASS_TEXTURE
    if likely.sum() < max(1.0, GLASS_SHARE * light.sum()):
        return np.full(3, max(WHITE, top), np.float32), np.zeros_like(light)
    modes = []
    for channel in range(3):
        counts = np.bincount(pixels[likely][:, channel], minlength=256).astype(np.float32)
        modes.append(float(np.convolve(counts, np.ones(5) / 5, mode="same").argmax()))
    glass = np.asarray(modes, np.float32)
    is_glass = likely & (np.abs(pixels.astype(np.float32) - glass).max(axis=-1) < 12)
    return glass, is_glass


def _texture(values: UInt8Array) -> FloatArray:
    """Standard deviation around each pixel."""
    box, real = (TEXTURE, TEXTURE), values.astype(np.float32)
    variance = cv2.blur(real**2, box) - cv2.blur(real, box) ** 2
    return np.asarray(np.sqrt(np.maximum(variance, 0)), np.float32)


def _textured(mask: BoolArray, density: FloatArray, texture: FloatArray, glass: BoolArray) -> BoolArray:
    """Remove plain pieces from the mask: mountant, and glass under another coverslip."""
    if not glass.any():
        return mask
    smooth = texture < SMOOTH * max(float(np.median(texture[glass])), 0.2)
    yellow = density.argmax(axis=-1) == 2
    faint = density.max(axis=-1) - density.min(axis=-1) < FAINT
    plain = faint & (smooth | yellow)
    core = cv2.erode(mask.astype(np.uint8), np.ones((TEXTURE, TEXTURE), np.uint8)) > 0  # its border is never smooth
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    pixels = np.bincount(labels[core], minlength=count)
    drop = np.bincount(labels[core], plain[core], minlength=count) > PLAIN_SHARE * pixels
    return np.asarray(mask & ~drop[labels])


def _threshold(saturation: FloatArray, judged: BoolArray, glass: BoolArray) -> float:
    """Otsu's threshold on saturation, above the noise of glass and within `SATURATION_RANGE`."""
    low, high = SATURATION_RANGE
    if glass.any():
        values = saturation[glass]
        centre = float(np.median(values))
        deviation = 1.4826 * float(np.median(np.abs(values - centre)))
        low = float(np.clip(centre + NOISE * deviation, low, (low + high) / 2))
    if not judged.any():
        return low
    steps = np.clip(saturation[judged] * 255 / 0.5, 0, 255).astype(np.uint8)
    return float(np.clip(otsu_within(steps, 0, 254) * 0.5 / 255, low, high))


def _ink(density: FloatArray, light: BoolArray) -> BoolArray:
    """Marker ink: areas with densities that no stain has, and their thinner surroundings."""
    ink = np.zeros_like(light)
    for certain, perhaps in _kinds_of_ink(density):
        opened = cv2.morphologyEx((certain & light).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        core = drop_specks(opened.astype(np.bool_), INK_AREA)
        if core.any():
            near = cv2.dilate(core.astype(np.uint8), _disc(INK_REACH)).astype(np.bool_)
            weak = (perhaps | core) & near & light
            _, labels = cv2.connectedComponents(weak.astype(np.uint8), connectivity=8)
            ink |= np.isin(labels, np.unique(labels[core]))
    if ink.any():
        ink = cv2.dilate(ink.astype(np.uint8), _disc(2)).astype(np.bool_) & light
    return ink


def _kinds_of_ink(density: FloatArray) -> Iterator[tuple[BoolArray, BoolArray]]:
    """For black, blue, green, red and orange: certain ink, and its possible soft edge.

    In densities haematoxylin is about (0.65, 0.70, 0.29), eosin (0.07, 0.99, 0.11), DAB (0.27, 0.57, 0.78) (Ruifrok and
    Johnston, 2001). The bounds were set on scenes painted with the inks of `tests/unit/tissue/scenes.py`.
    """
    red, green, blue = (density[..., channel] for channel in range(3))
    highest, lowest = density.max(axis=-1), density.min(axis=-1)
    neutral = highest - lowest < 0.5 * highest
    yield (lowest > 1.1) & neutral, (lowest > 0.7) & neutral
    bluish = (red > 0.9) & (red > 1.3 * green) | (red > 1.7) & (red > 1.08 * green)  # pure, or too dense for nuclei
    yield bluish & (blue < 0.6 * red), (red > 0.08) & (red > 1.08 * green) & (blue < 0.7 * red)
    yield (
        (red > 0.6) & (green < 0.75 * red) & (green < 1.15 * blue),
        (red > 0.08) & (green < 0.85 * red) & (green < 1.25 * blue),
    )
    dense = (green > 1.3) & (blue > 0.7 * green) | (green > 1.7) & (blue > 0.58 * green)
    yield (
        dense & (red < 0.35 * green),
        (green > 0.08) & (blue > 0.55 * green) & (red < 0.5 * green),
    )
    yield (
        (blue > 1.0) & (blue > 1.3 * green) & (red < 0.2 * blue),
        (blue > 0.08) & (blue > 1.1 * green) & (red < 0.4 * blue),
    )


def _disc(radius: int) -> UInt8Array:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))
