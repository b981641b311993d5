"""Fonts for text in images: Pillow's built-in font for Latin, system fonts for all other scripts.

The font of a letter depends only on the letters and the installed fonts, never on what was drawn before. Text in
letters of the built-in font has the same pixels on every machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import ImageFont, features

MISSING = "\uffff"
MICRO = "µ"
"""Missing from the built-in font; drawn as a u with a longer stem."""

BUILT_IN = ""
"""Identifier of the built-in font; other fonts are identified by their files."""

PROBE = 16
"""Size in pixels at which glyphs are searched."""

MOST_FONTS = 400
"""Maximum number of font files considered, the best first; limits the time for a letter that no font has."""

SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
PREFERRED = (
    "dejavusans",
    "notosans",
    "notosanscjk",
    "notosansarabic",
    "liberationsans",
    "arial",
    "arialunicode",
    "segoeui",
    "helvetica",
    "pingfang",
    "hiraginosans",
    "hiragino",
    "msyh",
    "yugoth",
    "meiryo",
    "malgun",
    "wqy",
    "droidsans",
)
"""Families with uniform strokes, tried first and in this order."""

STYLES = (
    "bold",
    "italic",
    "oblique",
    "light",
    "thin",
    "black",
    "heavy",
    "condensed",
    "medium",
    "semi",
    "mono",
    "serif",
)
PLACEHOLDERS = ("lastresort", "adobeblank", "notdef")
"""Fonts whose glyphs are placeholders for letters."""

SHAPED = ((0x0900, 0x109F), (0x1780, 0x17FF), (0x1A20, 0x1AAF), (0x1B00, 0x1C4F), (0xA800, 0xABFF))
"""Scripts of South and Southeast Asia, whose letters change with their neighbours."""


class Run(NamedTuple):
    """Consecutive letters in one font, identified by its file."""

    text: str
    font: str


def runs(text: str) -> tuple[Run, ...]:
    """Split text into runs of one font in reading order; every letter must be drawable."""
    return _runs(text, _system_fonts())


def is_drawable(letter: str) -> bool:
    """Whether the built-in font or a system font has a letter."""
    return in_built_in(letter) or first_font(letter, _system_fonts()) is not None


@cache
def in_built_in(letter: str) -> bool:
    """Whether the built-in font has a letter."""
    if letter in (MICRO, " "):
        return True
    return _has_glyph(built_in(PROBE), letter)


@cache
def built_in(size: int) -> ImageFont.FreeTypeFont:
    """The built-in font with a letter size of `size` pixels."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType; install its official wheel to draw heatmaps")
    # The other engine, Raqm, is not available on every machine and spaces letters differently.
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


@lru_cache(32)
def font_of(file: str, size: int) -> ImageFont.FreeTypeFont:
    """The font of a run with a letter size of `size` pixels."""
    if file == BUILT_IN:
        return built_in(size)
    engine = ImageFont.Layout.RAQM if has_raqm() else ImageFont.Layout.BASIC
    return ImageFont.truetype(file, size, layout_engine=engine)


@cache
def has_raqm() -> bool:
    """Whether Pillow can shape and order letters of scripts such as Arabic."""
    return bool(features.check("raqm"))


@lru_cache(4096)
def _runs(text: str, fonts: tuple[str, ...]) -> tuple[Run, ...]:
    found: list[Run] = []
    for word in _words(text):
        for run in _runs_of_word(word, fonts):
            if found and found[-1].font == run.font:
                found[-1] = Run(found[-1].text + run.text, run.font)
            elif _is_spaced_pair(found, run):
                found[-2:] = [Run(f"{found[-2].text} {run.text}", run.font)]
            else:
                found.append(run)
    return tuple(found)


def _is_spaced_pair(found: Sequence[Run], run: Run) -> bool:
    """Whether a run and the last but one are right-to-left words separated by a space, which are ordered as one."""
    if len(found) < 2 or found[-1].text != " " or found[-2].font != run.font:
        return False
    return _is_right_to_left(found[-2].text) and _is_right_to_left(run.text)


def _words(text: str) -> Iterator[str]:
    """Split text into words and the single spaces between them."""
    for index, word in enumerate(text.split(" ")):
        if index:
            yield " "
        if word:
            yield word


def _runs_of_word(word: str, fonts: tuple[str, ...]) -> list[Run]:
    """One font for the whole word if possible, since letters of two fonts in a word look wrong."""
    if all(in_built_in(letter) for letter in word):
        return [Run(word, BUILT_IN)]
    for font in fonts:
        if all(_in_font(letter, font) for letter in word):
            return [Run(word, font)]
    found: list[Run] = []
    for letter in word:
        font = BUILT_IN if in_built_in(letter) else first_font(letter, fonts) or BUILT_IN
        if found and found[-1].font == font:
            letter = found.pop().text + letter
        found.append(Run(letter, font))
    return found


@lru_cache(4096)
def first_font(letter: str, fonts: tuple[str, ...]) -> str | None:
    """The first font that draws a letter; None if there is none."""
    if not has_raqm() and _needs_shaping(letter):
        return None
    return next((font for font in fonts if _in_font(letter, font)), None)


def _needs_shaping(letter: str) -> bool:
    code = ord(letter)
    ranges = any(low <= code <= high for low, high in SHAPED)
    return ranges or unicodedata.combining(letter) > 0 or _is_right_to_left(letter)


def _is_right_to_left(text: str) -> bool:
    return any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in text)


@lru_cache(16384)
def _in_font(letter: str, file: str) -> bool:
    font = _probe(file)
    return font is not None and _has_glyph(font, letter)


@lru_cache(64)  # each keeps a file open
def _probe(file: str) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(file, PROBE, layout_engine=ImageFont.Layout.BASIC)
    except (OSError, ValueError):  # a damaged file, or a bitmap font of another size
        return None


def _has_glyph(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    try:
        mask = bytes(font.getmask(letter))
        return any(mask) and mask != bytes(font.getmask(MISSING))
    except (OSError, ValueError):
        return False


@cache
def _system_fonts() -> tuple[str, ...]:
    """Files of the installed fonts, the best first, without bold, slanted and other special styles."""
    files = {str(file) for folder in _font_folders() for file in _font_files(folder)} | _fontconfig_files()
    return tuple(sorted(filter(_is_plain, files), key=_rank)[:MOST_FONTS])


def _is_plain(file: str) -> bool:
    name = _family(file)
    return not any(word in name for word in (*STYLES, *PLACEHOLDERS))


def _family(file: str) -> str:
    name = Path(file).stem.lower().replace("-", "").replace("_", "").replace(" ", "")
    return name.removesuffix("regular").removesuffix("vf")


def _rank(file: str) -> tuple[int, str, str]:
    name = _family(file)
    if name in PREFERRED:
        return PREFERRED.index(name), name, file
    likely = any(name.startswith(family) for family in PREFERRED)
    return len(PREFERRED) + (0 if likely else 1), name, file


def _font_files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in names if name.lower().endswith(SUFFIXES))


def _font_folders() -> Sequence[Path]:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises if there is none
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts", home / "AppData/Local/Microsoft/Windows/Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    data = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    shared = [Path(folder) / "fonts" for folder in data.split(":") if folder]
    return [*shared, home / ".local/share/fonts", home / ".fonts"]


def _fontconfig_files() -> set[str]:
    """Fonts in other folders known to fontconfig."""
    program = shutil.which("fc-list")
    if program is None:
        return set()
    try:
        listed = subprocess.run(  # noqa: S603 - a fixed command
            [program, "--format", "%{file}\n"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return set()
    return {line for line in listed.stdout.splitlines() if line.lower().endswith(SUFFIXES)}
