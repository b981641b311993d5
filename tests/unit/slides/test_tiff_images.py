"""Which image of a TIFF is the slide, which pages are its levels, and which pixel size is stated for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from tests.cli.runner import in_process
from tests.tiff_files import write_svs
from wsi_attn.errors import SlideUnsupportedError
from wsi_attn.slides.ome_metadata import microns_per_unit
from wsi_attn.slides.open import open_slide

SIZE = 512
TILED = {"tile": (256, 256), "compression": "jpeg", "photometric": "rgb", "metadata": None}


@pytest.fixture
def levels(demo_slide: Path) -> list[np.ndarray]:
    with openslide.OpenSlide(demo_slide) as slide:
        pixels = np.array(slide.read_region((700, 900), 0, (SIZE, SIZE)).convert("RGB"))
    return [pixels, np.ascontiguousarray(pixels[::2, ::2]), np.ascontiguousarray(pixels[::4, ::4])]


def image_xml(number: int, name: str, size: int, *, unit: str = "", mpp: float = 0.5) -> str:
    stated = "".join(f' PhysicalSize{axis}="{mpp}" PhysicalSize{axis}Unit="{unit}"' for axis in "XY") if unit else ""
    return (
        f'<Image ID="Image:{number}" Name="{name}"><Pixels ID="Pixels:{number}" DimensionOrder="XYCZT" Type="uint8" '
        f'SizeX="{size}" SizeY="{size}" SizeC="3" SizeZ="1" SizeT="1"{stated}>'
        f'<Channel ID="Channel:{number}:0" SamplesPerPixel="3"/><TiffData IFD="{number}" PlaneCount="1"/></Pixels>'
        "</Image>"
    )


def ome(*images: str) -> bytes:
    head = '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    return f"{head}{''.join(images)}</OME>".encode()


def with_macro(path: Path, levels: list[np.ndarray], *, macro_last: bool = False) -> Path:
    small = np.ascontiguousarray(levels[0][::4, ::4])
    names = [("slide", SIZE, "µm"), ("macro", 128, "")] if macro_last else [("macro", 128, ""), ("slide", SIZE, "µm")]
    xml = ome(*(image_xml(number, name, size, unit=unit) for number, (name, size, unit) in enumerate(names)))
    with tifffile.TiffWriter(path) as writer:
        for number, (name, _, _) in enumerate(names):
            said = {"description": xml} if number == 0 else {}
            if name == "macro":
                writer.write(small, **{**TILED, "tile": (128, 128)}, **said)
                continue
            writer.write(levels[0], subifds=1, **TILED, **said)
            writer.write(levels[1], subfiletype=1, **TILED)
    return path


@pytest.mark.parametrize("macro_last", [False, True])
def test_the_largest_image_is_the_slide_and_the_others_can_be_named(
    macro_last: bool, levels: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_macro(tmp_path / "two.ome.tif", levels, macro_last=macro_last)
    other = 1 if macro_last else 0
    text = in_process(capsys, "info", path).stdout
    assert f"other image #{other} macro, 128 x 128 px" in text
    slide, named, macro, numbered = in_process(
        capsys, "info", path, f"{path}#slide", f"{path}#macro", f"{path}#{other}", "--json"
    ).json()
    assert (slide["width"], slide["mpp"], len(slide["levels"])) == (SIZE, [0.5, 0.5], 2)
    assert named == slide
    assert (macro["width"], macro["mpp"], macro["slide"]) == (128, None, f"{path}#{other}")
    assert numbered == macro
    assert macro["fingerprint"] != slide["fingerprint"]
    error = in_process(capsys, "info", f"{path}#label", code=3).error()
    assert "#0" in error
    assert "#1" in error


def test_a_named_image_is_tiled_predicted_and_drawn_by_its_own_path(
    levels: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_macro(tmp_path / "two.ome.tif", levels)
    in_process(capsys, "tile", path, f"{path}#0", "-o", tmp_path / "stores")
    assert sorted(store.name for store in (tmp_path / "stores").iterdir()) == ["two.image0.zarr", "two.zarr"]
    with open_slide(Path(f"{path}#0")) as macro, open_slide(path) as slide:
        found = macro.read_region((0, 0), 0, (128, 128)).astype(int)
        assert np.abs(found - levels[0][::4, ::4]).mean() < 8
        assert np.abs(slide.read_region((0, 0), 0, (SIZE, SIZE)).astype(int) - levels[0]).mean() < 8
    in_process(capsys, "predict", f"{path}#0", "--slide-mpp", "0.5", "-o", tmp_path, "--allow-out-of-distribution")
    in_process(capsys, "heatmap", tmp_path / "two.image0.prediction.json", "-o", tmp_path / "drawn")


def test_a_file_whose_name_holds_the_mark_is_a_file(levels: list[np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "case#1"
    tifffile.imwrite(path, levels[0], **TILED)
    with open_slide(path) as slide:
        assert slide.info.path == path


@pytest.mark.parametrize(("unit", "length"), [("µm", 0.5), ("μm", 0.5), ("um", 0.5), ("nm", 500), ("mm", 0.0005)])
@pytest.mark.parametrize("layout", ["pages", "rgba", "strips"])
def test_pixel_sizes_of_ome_xml_in_every_layout(
    layout: str, unit: str, length: float, levels: list[np.ndarray], tmp_path: Path
) -> None:
    path, xml = tmp_path / "a.ome.tif", ome(image_xml(0, "slide", SIZE, unit=unit, mpp=length))
    if layout == "strips":
        tifffile.imwrite(path, levels[0], photometric="rgb", rowsperstrip=16, metadata=None, description=xml)
    else:
        options = {**TILED, "compression": "deflate"}
        with tifffile.TiffWriter(path) as writer:
            for index, level in enumerate(levels):
                pixels = np.dstack([level, np.full(level.shape[:2], 255, np.uint8)]) if layout == "rgba" else level
                more = {"extrasamples": ["UNASSALPHA"]} if layout == "rgba" else {}
                said = {"description": xml.replace(b'"3"', b'"4"') if layout == "rgba" else xml} if not index else {}
                writer.write(pixels, subfiletype=min(index, 1), **options, **more, **said)
    with open_slide(path) as slide:
        assert slide.info.mpp == pytest.approx((0.5, 0.5))
        assert len(slide.info.levels) == (1 if layout == "strips" else 3)
        for index, level in enumerate(slide.info.levels):
            np.testing.assert_array_equal(slide.read_region((0, 0), index, level.size), levels[index])


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m", "µm"])
@pytest.mark.parametrize("tile", [None, (256, 256)])
def test_units_of_imagej(unit: str, tile: tuple[int, int] | None, levels: list[np.ndarray], tmp_path: Path) -> None:
    said = f"ImageJ=1.53t\nunit={unit}\n".encode("utf-8" if unit.isascii() else "latin-1")
    path = tmp_path / "imagej.tif"
    tifffile.imwrite(
        path,
        levels[0],
        photometric="rgb",
        metadata=None,
        description=said,
        resolution=(2, 2),
        resolutionunit=1,
        tile=tile,
    )
    with open_slide(path) as slide:
        assert slide.info.mpp == pytest.approx((0.5, 0.5))


def test_spellings_of_units() -> None:
    assert [microns_per_unit(unit) for unit in ("Microns", "micrometres", "Micrometer", "inch", "Å")] == [
        1,
        1,
        1,
        25400,
        1e-4,
    ]
    assert [microns_per_unit(unit) for unit in ("pixel", "reference frame", "", None)] == [None] * 4


def test_masks_are_no_levels(levels: list[np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "masked.tif"
    with tifffile.TiffWriter(path) as writer:
        for index, level in enumerate(levels[:2]):
            writer.write(level, subfiletype=min(index, 1), **{**TILED, "compression": "deflate"})
            mask = np.full(level.shape[:2], True)
            kind = {"photometric": 4, "tile": (256, 256), "metadata": None}
            writer.write(mask, subfiletype=4 + min(index, 1), **kind)
    with open_slide(path) as slide:
        assert [level.size.width for level in slide.info.levels] == [SIZE, SIZE // 2]
        for index, level in enumerate(slide.info.levels):
            np.testing.assert_array_equal(slide.read_region((0, 0), index, level.size), levels[index])


def test_levels_of_an_aperio_slide_in_any_order(levels: list[np.ndarray], tmp_path: Path) -> None:
    path = write_svs(tmp_path / "unsorted.svs", [levels[0], levels[2], levels[1]], (128, 128))
    with open_slide(path) as slide:
        assert [level.downsample_x for level in slide.info.levels] == [1, 2, 4]
        assert slide.info.mpp == pytest.approx((0.499, 0.499))
        assert slide.info.objective_power == 20
        for index, level in enumerate(slide.info.levels):
            found = slide.read_region((0, 0), index, level.size).astype(int)
            assert np.abs(found - levels[index]).mean() < 8


def test_only_tiff_holds_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(SlideUnsupportedError, match="only TIFF"):
        open_slide(tmp_path / "a.png#1")
