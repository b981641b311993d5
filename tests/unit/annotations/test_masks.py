"""Labels of pixels from mask images and from annotations, at any resolution, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsi_attn.annotations.masks import UNLABELLED, Classes, Mask, Window, found_classes, open_mask, parse_classes
from wsi_attn.data.manifest import Row
from wsi_attn.errors import ManifestError, UsageError
from wsi_attn.geometry import Size

SIZE = Size(40, 30)
WHOLE = Window(0, 0, 40, 30, 1, 1)
CELLS = Classes(("background", "cell"))


def row(mask: Path | None, regions: Path | None = None) -> Row:
    return Row(Path("x.png"), "", "p", "", None, 7, mask=mask, regions=regions)


def image_mask(folder: Path, values: NDArray[np.generic], classes: Classes = CELLS, size: Size = SIZE) -> Mask:
    Image.fromarray(values).save(folder / "mask.png")
    return open_mask(row(folder / "mask.png"), classes, size)


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def annotations(path: Path, *features: tuple[str, Sequence[list[list[float]]]]) -> Path:
    document = {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": list(rings)},
                "properties": {"classification": {"name": name}} if name else {},
            }
            for name, rings in features
        ],
    }
    path.write_text(json.dumps(document))
    return path


def test_instances_become_foreground_and_keep_their_numbers(tmp_path: Path) -> None:
    values = np.zeros((30, 40), np.uint16)
    values[2:8, 3:9], values[10:20, 9:30] = 900, 4
    mask = image_mask(tmp_path, values)
    np.testing.assert_array_equal(mask.read(WHOLE), values > 0)
    np.testing.assert_array_equal(mask.objects(WHOLE), values)
    binary = image_mask(tmp_path, ((values > 0) * 255).astype(np.uint8))
    np.testing.assert_array_equal(binary.read(WHOLE), values > 0)
    assert binary.objects(WHOLE) is None
    one_bit = image_mask(tmp_path, values > 0)
    np.testing.assert_array_equal(one_bit.read(WHOLE), values > 0)


def test_values_are_numbers_of_classes_or_as_given(tmp_path: Path) -> None:
    values = np.zeros((30, 40), np.uint8)
    values[:10], values[10:12] = 1, 2
    three = Classes(("background", "a", "b"))
    np.testing.assert_array_equal(image_mask(tmp_path, values, three).read(WHOLE), values)
    given = parse_classes("background=0, cytoplasm=128, nucleus=255")
    assert given == Classes(("background", "cytoplasm", "nucleus"), (0, 128, 255))
    grey = np.array([0, 128, 255], np.uint8)[values]
    np.testing.assert_array_equal(image_mask(tmp_path, grey, given).read(WHOLE), values)
    with pytest.raises(ManifestError, match=r"row 7: mask .*mask.png has the values \[128, 255\].*b=2"):
        image_mask(tmp_path, grey, three)


def test_a_palette_is_read_by_its_numbers(tmp_path: Path) -> None:
    values = np.zeros((30, 40), np.uint8)
    values[:5] = 1
    image = Image.fromarray(values, "P")
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(open_mask(row(tmp_path / "p.png"), CELLS, SIZE).read(WHOLE), values)


def test_windows_of_any_place_and_resolution(tmp_path: Path) -> None:
    values = np.arange(30 * 40).reshape(30, 40) % 5
    mask = image_mask(tmp_path, values.astype(np.uint8), Classes(tuple("abcde")))
    np.testing.assert_array_equal(mask.read(Window(5, 7, 10, 12, 1, 1)), values[7:19, 5:15])
    np.testing.assert_array_equal(mask.read(Window(0, 0, 20, 15, 2, 2)), values[1::2, 1::2])
    np.testing.assert_array_equal(mask.read(Window(4, 4, 8, 8, 0.5, 0.5)), values[4:8, 4:8].repeat(2, 0).repeat(2, 1))
    over = mask.read(Window(-2, 25, 4, 10, 1, 1))
    assert (over[:, :2] == UNLABELLED).all()
    assert (over[5:] == UNLABELLED).all()
    np.testing.assert_array_equal(over[:5, 2:], values[25:, :2])
    half = image_mask(tmp_path, values.astype(np.uint8), Classes(tuple("abcde")), Size(80, 60))
    np.testing.assert_array_equal(half.read(Window(0, 0, 40, 30, 2, 2)), values)


def test_polygons_with_holes_by_class_at_any_resolution(tmp_path: Path) -> None:
    path = annotations(
        tmp_path / "a.geojson",
        ("Cell", [square(4, 4, 12), square(8, 8, 4)]),
        ("Gland", [square(20, 4, 8)]),
        ("gland", [square(24, 4, 8)]),
        ("Ignore*", [square(0, 20, 6)]),
    )
    mask = open_mask(row(path), Classes(("background", "cell", "gland")), SIZE)
    wanted = np.zeros((30, 40), np.uint8)
    wanted[4:16, 4:16] = 1
    wanted[8:12, 8:12] = 0
    wanted[4:12, 20:32] = 2
    wanted[20:26, 0:6] = UNLABELLED
    np.testing.assert_array_equal(mask.read(WHOLE), wanted)
    np.testing.assert_array_equal(mask.read(Window(2, 2, 12, 10, 2, 2)), wanted[2:22:2, 2:26:2])
    assert (mask.read(Window(38, 0, 4, 4, 1, 1))[:, 2:] == UNLABELLED).all()
    objects = mask.objects(WHOLE)
    assert objects is not None
    assert len(np.unique(objects[objects > 0])) == 3  # glands that touch are two


def test_nothing_has_a_label_outside_of_the_regions(tmp_path: Path) -> None:
    path = annotations(tmp_path / "a.geojson", ("", [square(4, 4, 12)]))
    regions = annotations(tmp_path / "r.geojson", ("", [square(2, 2, 20)]))
    found = open_mask(row(path, regions), CELLS, SIZE).read(WHOLE)
    assert (found[2:22, 2:22] != UNLABELLED).all()
    assert (found == UNLABELLED).sum() == 40 * 30 - 400


def test_places_lie_on_what_is_labelled(tmp_path: Path) -> None:
    values = np.zeros((30, 40), np.uint8)
    values[3:6, 4:30], values[20, 35] = 1, 2
    mask = image_mask(tmp_path, values, Classes(("background", "a", "b")))
    generator = np.random.default_rng(0)
    places = [mask.place(generator) for _ in range(40)]
    found = [int(values[int(y), int(x)]) for x, y in filter(None, places)]
    assert len(found) == 40
    assert 0 not in found
    assert 8 < found.count(2) < 32  # the rare class as often as the other
    assert image_mask(tmp_path, np.zeros((30, 40), np.uint8)).place(generator) is None
    drawn = open_mask(row(annotations(tmp_path / "a.geojson", ("cell", [square(10, 12, 3)]))), CELLS, SIZE)
    x, y = drawn.place(generator) or (0, 0)
    assert 10 <= x <= 13
    assert 12 <= y <= 15


def test_classes_are_those_that_annotations_name(tmp_path: Path) -> None:
    path = annotations(
        tmp_path / "a.geojson",
        ("Tumour", [square(0, 0, 4)]),
        ("Fat", [square(0, 0, 4)]),
        ("Ignore*", [square(0, 0, 4)]),
    )
    assert found_classes([row(path)]).names == ("background", "Fat", "Tumour")
    assert found_classes([row(tmp_path / "x.png")]).names == ("background", "foreground")


@pytest.mark.parametrize("text", ["one", "a,a", "a,,b", "a=0,b", "a=0,b=x", "a=1,b=1"])
def test_classes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--classes"):
        parse_classes(text)


def test_masks_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="row 7: the column `mask` is missing"):
        open_mask(row(None), CELLS, SIZE)
    with pytest.raises(ManifestError, match="40 x 30 px but the image is 30 x 40"):
        image_mask(tmp_path, np.zeros((30, 40), np.uint8), size=Size(30, 40))
    picture = np.zeros((30, 40, 3), np.uint8)
    picture[0, 0, 0] = 9
    with pytest.raises(ManifestError, match="colour image"):
        image_mask(tmp_path, picture)
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(ManifestError, match=r"row 7: mask .*no.png cannot be read"):
        open_mask(row(tmp_path / "no.png"), CELLS, SIZE)
    with pytest.raises(ManifestError, match="of class 'Fat'; the classes are background, cell"):
        open_mask(row(annotations(tmp_path / "a.geojson", ("Fat", [square(0, 0, 4)]))), CELLS, SIZE)
    (tmp_path / "b.geojson").write_text("{}")
    with pytest.raises(ManifestError, match="row 7"):
        open_mask(row(tmp_path / "b.geojson"), CELLS, SIZE)
