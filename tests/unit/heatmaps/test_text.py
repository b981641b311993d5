"""Names of slides in all scripts: drawn where a font has them, told apart where none has."""

import random

import numpy as np
import pytest
from PIL import features

from wsi_attn.heatmaps import fonts, text

SCRIPTS = {
    "Chinese": "切片_2024_漢字.svs",
    "Japanese": "スライド 第三号.tif",
    "Korean": "슬라이드 하나",
    "Arabic": "شريحة مرحبا 42",
    "Hebrew": "שקופית ראשונה",
    "Cyrillic": "Препарат №5",
    "Greek": "Αθήνα",
    "Thai": "สไลด์",
    "Hindi": "स्लाइड नमूना",
    "accents": "Zoë Łódź ởn̄",
}
NEED_RAQM = ("Arabic", "Hebrew", "Hindi", "Thai", "accents")


@pytest.fixture
def no_fonts(monkeypatch):
    """A machine without fonts but Pillow's own."""
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ())


@pytest.fixture(params=SCRIPTS)
def installed(request):
    """A name in a script for which this machine has a font."""
    if request.param in NEED_RAQM and not features.check("raqm"):
        pytest.skip("Pillow has no Raqm here")
    name = SCRIPTS[request.param]
    missing = [letter for letter in name if not fonts.is_drawable(letter)]
    if missing:
        pytest.skip(f"no font on this machine has {missing} ({request.param})")
    return name


def drawn(name, size=20):
    return np.asarray(text.text_block([(name, size, text.INK)], 2000))


def test_scripts_are_drawn_in_fonts_of_the_system(installed):
    assert text.printable(installed) == text.unicodedata.normalize("NFC", installed)
    assert "".join(run.text for run in fonts.runs(installed)) == installed
    assert any(run.font for run in fonts.runs(installed))
    pixels = drawn(installed)
    assert pixels.shape[1] >= len(installed) * 20 * 0.2
    assert (pixels.min(axis=(0, 2)) < 128).mean() > 0.3
    letters = [letter for letter in installed if letter.isalpha()]
    for letter in letters:
        assert not np.array_equal(drawn(letter), drawn("\u25a1"))  # not an empty box


def test_what_was_drawn_before_changes_nothing(installed):
    names = [*SCRIPTS.values(), "plain.svs"]
    random.Random(3).shuffle(names)
    before = drawn(installed)
    for name in names:
        drawn(name)
    for cache in (fonts._runs, fonts.first_font, fonts._in_font, fonts._probe, fonts.font_of):
        cache.cache_clear()
    np.testing.assert_array_equal(drawn(installed), before)


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow has no Raqm here")
def test_arabic_is_shaped_and_runs_from_right_to_left():
    if not fonts.is_drawable("ب"):
        pytest.skip("no Arabic font on this machine")
    joined, apart = text.text_width("ببب", 20), 3 * text.text_width("ب", 20)
    assert joined < apart * 0.9  # letters in a word are narrower than on their own
    (run,) = fonts.runs("با عالم")
    assert run.text == "با عالم"  # one run, so that the first word stands on the right
    ending = drawn("شر.lll")  # in a line from left to right, what follows the word stands on its right
    assert (ending[:, -8:] < 128).any(axis=-1).sum(axis=0).max() >= 12  # an l, higher than r and sh
    one, other = drawn("ا سسسس"), drawn("سسسس ا")
    assert not np.array_equal(one, other)
    assert one[:, -12:].min() < 128  # the slender first letter is at the right end
    assert (one[:, -12:] < 128).any(axis=-1).any(axis=0).sum() < 8


def test_latin_text_never_takes_a_font_of_the_system():
    assert fonts.runs("TCGA-05 (1) µm 7.svs…") == (fonts.Run("TCGA-05 (1) µm 7.svs…", fonts.BUILT_IN),)


def test_without_fonts_letters_are_escaped(no_fonts):
    assert text.printable("Zoë µm") == "Zoe µm"
    assert text.printable("切片") == "\\u5207\\u7247"
    assert text.printable("😀") == "\\U0001f600"
    assert text.printable("Ł") == "\\u0141"
    names = [text.printable(name) for name in ("切片一", "切片二", "スラ", "شريحة", "ш", "щ", "Łódź", "?", "??")]
    assert len(set(names)) == len(names)
    assert all(fonts.runs(name) == (fonts.Run(name, fonts.BUILT_IN),) for name in names)
    pictures = [drawn(name).tobytes() for name in names]
    assert len(set(pictures)) == len(names)
    assert text.text_width(text.fitted("漢" * 50, 20, 200), 20) <= 200


@pytest.mark.parametrize("letter", ["\n", "\t", "\0", "\u202e", "\u200b", "\u2028", "\ue000", "\udce9", "\U0010ffff"])
def test_controls_and_broken_letters_are_escaped(letter):
    name = text.printable(f"a{letter}b")
    assert name == f"a\\u{ord(letter):04x}b" or name == f"a\\U{ord(letter):08x}b"
    drawn(f"a{letter}b")


def test_decomposed_names_are_those_that_they_look_like(no_fonts):
    assert text.printable("Mu\u0308ller") == text.printable("M\u00fcller")
    assert text.printable("n\u0304") == "n\\u0304"


def test_without_raqm_scripts_that_need_it_are_escaped(monkeypatch):
    monkeypatch.setattr(fonts, "has_raqm", lambda: False)
    fonts.first_font.cache_clear()
    assert text.printable("شر") == "\\u0634\\u0631"
    assert text.printable("नम") == "\\u0928\\u092e"
    fonts.first_font.cache_clear()


def test_files_that_are_not_fonts_are_passed_over(tmp_path, monkeypatch):
    (tmp_path / "broken.ttf").write_bytes(b"not a font")
    (tmp_path / "empty.otf").write_bytes(b"")
    found = (str(tmp_path / "broken.ttf"), str(tmp_path / "empty.otf"), str(tmp_path / "missing.ttf"))
    monkeypatch.setattr(fonts, "_system_fonts", lambda: found)
    assert text.printable("漢") == "\\u6f22"


def test_every_letter_can_be_drawn():
    rng = random.Random(7)
    for _ in range(20):
        name = "".join(chr(rng.choice([rng.randrange(0x20, 0x3000), rng.randrange(0x110000)])) for _ in range(12))
        drawn(name, 9)
