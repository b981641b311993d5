"""Text in Pillow's built-in font: the same pixels on every machine, at the price of Latin letters only."""

from __future__ import annotations

import math
import unicodedata
from functools import cache

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Line = tuple[str, int, Colour]
"""A text, its size in pixels, and its colour."""

INK: Colour = (28, 30, 36)
QUIET: Colour = (104, 108, 118)
PAPER: Colour = (255, 255, 255)

LEADING = 1.35
"""Distance of lines as a multiple of the letter size."""

MISSING = "\uffff"
MICRO = "µ"
"""The font lacks it; it is drawn as a u with a longer stem."""


FINER = 4
"""Letters are drawn this many times larger and averaged: at their own size, hinting swallows the spaces."""


@cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """The built-in font, `FINER` times as large as `size` pixels."""
    font = ImageFont.load_default(size * FINER)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType; install its official wheel to draw heatmaps")
    # The other engine, Raqm, is not on every machine and spaces letters differently.
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


def printable(text: str) -> str:
    """`text` in letters that the font has: accents are dropped, what is left over becomes a question mark."""
    return "".join(letter if _is_drawable(letter) else _plain(letter) for letter in text)


def text_width(text: str, size: int) -> float:
    """Width in pixels of printable text."""
    return float(font_of(size).getlength(text.replace(MICRO, "u"))) / FINER


def fitted(text: str, size: int, width: float) -> str:
    """Printable text no wider than `width` pixels; the middle gives way, since names differ at their ends."""
    text = printable(text)
    if text_width(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        head = (kept + 1) // 2
        shorter = f"{text[:head]}…{text[len(text) - (kept - head) :]}"
        if text_width(shorter, size) <= width:
            return shorter
    return "…"


def draw_text(image: Image.Image, x: float, baseline: float, text: str, size: int, colour: Colour) -> None:
    """Printable text on an RGB image, starting at `x` and standing on `baseline`, both in pixels."""
    left, top = math.floor(x) - size, math.floor(baseline) - 2 * size
    width, height = math.ceil(text_width(text, size)) + 2 * size, 3 * size
    mask = Image.new("L", (width * FINER, height * FINER))
    draw, start, bottom = ImageDraw.Draw(mask), (x - left) * FINER, (baseline - top) * FINER
    draw.text((start, bottom), text.replace(MICRO, "u"), font=font_of(size), fill=255, anchor="ls")
    for index, letter in enumerate(text):
        if letter == MICRO:
            _draw_stem(draw, start + text_width(text[:index], size) * FINER, bottom, font_of(size))
    image.paste(colour, (left, top), mask.reduce(FINER))


def text_block(lines: list[Line], width: int) -> Image.Image:
    """Lines of text below each other, each shortened to `width` pixels; as wide as the widest needs."""
    texts = [(fitted(text, size, width), size, colour) for text, size, colour in lines]
    widest = max(text_width(text, size) for text, size, _ in texts)
    block = Image.new("RGB", (round(widest + 0.5), round(sum(size * LEADING for _, size, _ in texts))), PAPER)
    y = 0.0
    for text, size, colour in texts:
        draw_text(block, 0, round(y + size), text, size, colour)
        y += size * LEADING
    return block


def _draw_stem(draw: ImageDraw.ImageDraw, x: float, baseline: float, font: ImageFont.FreeTypeFont) -> None:
    """Lengthen the left stem of the letter u at `x` as far down as a p reaches."""
    mask, (offset, _) = font.getmask2("u", mode="L", anchor="ls")
    ink, depth = font.getmask("l").getbbox(), font.getbbox("p", anchor="ls")[3]
    left = round(x) + offset + mask.getbbox()[0]
    draw.rectangle((left, baseline - depth, left + ink[2] - ink[0] - 1, baseline + depth - 1), fill=255)


@cache
def _is_drawable(letter: str) -> bool:
    if letter == MICRO or letter.isspace():
        return letter != "\n"
    font = font_of(16)
    return bytes(font.getmask(letter)) != bytes(font.getmask(MISSING))


def _plain(letter: str) -> str:
    base = [part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part)]
    return "".join(part if _is_drawable(part) else "?" for part in base)
