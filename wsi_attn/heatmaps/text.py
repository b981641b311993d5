r"""Text in images: Latin text looks the same on every machine, other scripts use system fonts.

Letters that no font has are written as escapes such as ``\u6f22``, so two names never look the same because of missing
glyphs.
"""

from __future__ import annotations

import math
import unicodedata

from PIL import Image, ImageDraw, ImageFont

from wsi_attn.heatmaps.fonts import BUILT_IN, MICRO, Run, font_of, has_raqm, in_built_in, is_drawable, runs

Colour = tuple[int, int, int]
Line = tuple[str, int, Colour]
"""A text, its size in pixels, and its colour."""

INK: Colour = (28, 30, 36)
QUIET: Colour = (104, 108, 118)
PAPER: Colour = (255, 255, 255)

LEADING = 1.35
"""Line spacing as a multiple of the letter size."""

FINER = 4
"""Factor by which letters are drawn larger and then averaged: at their own size, hinting loses the spaces."""


def printable(text: str) -> str:
    """Return `text` with only letters that some font has.

    Accents are dropped from letters that no font has; remaining ones and control characters become escapes.
    """
    return "".join(_printable(letter) for letter in unicodedata.normalize("NFC", text))


def text_width(text: str, size: int) -> float:
    """Width in pixels of printable text."""
    return sum(_run_width(run, size) for run in runs(text))


def _run_width(run: Run, size: int) -> float:
    return float(font_of(run.font, size * FINER).getlength(_glyphs(run), direction=_direction(run))) / FINER


def _direction(run: Run) -> str | None:
    """Lines run from left to right and may contain right-to-left words; only Raqm supports this setting."""
    return "ltr" if run.font != BUILT_IN and has_raqm() else None


def _glyphs(run: Run) -> str:
    return run.text.replace(MICRO, "u") if run.font == BUILT_IN else run.text


def fitted(text: str, size: int, width: float) -> str:
    """Printable text of at most `width` pixels; the middle is shortened, since names differ at their ends."""
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
    for run in runs(text):
        font = font_of(run.font, size * FINER)
        draw.text((start, bottom), _glyphs(run), font=font, fill=255, anchor="ls", direction=_direction(run))
        for index, letter in enumerate(run.text if run.font == BUILT_IN else ""):
            if letter == MICRO:
                _draw_stem(draw, start + _run_width(Run(run.text[:index], BUILT_IN), size) * FINER, bottom, font)
        start += _run_width(run, size) * FINER
    image.paste(colour, (left, top), mask.reduce(FINER))


def text_block(lines: list[Line], width: int) -> Image.Image:
    """Lines of text in a column, each shortened to `width` pixels; as wide as the widest line."""
    texts = [(fitted(text, size, width), size, colour) for text, size, colour in lines]
    widest = max(text_width(text, size) for text, size, _ in texts)
    block = Image.new("RGB", (round(widest + 0.5), round(sum(size * LEADING for _, size, _ in texts))), PAPER)
    y = 0.0
    for text, size, colour in texts:
        draw_text(block, 0, round(y + size), text, size, colour)
        y += size * LEADING
    return block


def _draw_stem(draw: ImageDraw.ImageDraw, x: float, baseline: float, font: ImageFont.FreeTypeFont) -> None:
    """Extend the left stem of the letter u at `x` downwards to the depth of a p."""
    mask, (offset, _) = font.getmask2("u", mode="L", anchor="ls")
    width, height = mask.size
    row = bytes(mask)[height // 2 * width : (height // 2 + 1) * width]
    inked = [ink > 127 for ink in row]
    first = inked.index(True)
    last = inked.index(False, first) - 1
    left, depth = round(x) + offset, font.getbbox("p", anchor="ls")[3]
    draw.rectangle((left + first, baseline - depth, left + last, baseline + depth - 1), fill=255)


def _printable(letter: str) -> str:
    kind = unicodedata.category(letter)
    if kind == "Zs":
        return " "
    if kind[0] == "C" or kind in ("Zl", "Zp"):  # invisible, or a directional control character
        return _escape(letter)
    if is_drawable(letter):
        return letter
    base = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
    return base if base and all(map(in_built_in, base)) else _escape(letter)


def _escape(letter: str) -> str:
    code = ord(letter)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
