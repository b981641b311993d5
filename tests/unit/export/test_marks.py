"""A mark at known level-0 pixels comes back from every format at the same place, by independent readers."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import openslide
import pytest
import tifffile
import zarr
from ome_zarr_models.v05.image import Image as OmeZarrImage
from PIL import Image
from pyarrow import parquet

from tests.unit.export.marks import CELL, KINDS, MARK, MPP, SIZE, cell_region, centre, darkness_at, make_subject
from wsi_attn.export.config import ExportConfig
from wsi_attn.export.run import export_subject, target_of

OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"


@pytest.fixture(params=KINDS)
def subject(request, tmp_path, monkeypatch):
    return make_subject(request.param, tmp_path, monkeypatch)


def export(subject, to, tmp_path, **options):
    """The path that an export wrote, and its record."""
    config = ExportConfig(workers=1, **options)
    path = target_of(subject, to, tmp_path / "out", config)
    return path, export_subject(subject, to, path, config)


def coloured_box(image, downsample):
    """Left, top, right, bottom of what is not transparent, level-0 pixels."""
    rows, columns = np.nonzero(np.asarray(image.convert("RGBA"))[..., 3])
    x, y = downsample
    return columns.min() * x, rows.min() * y, (columns.max() + 1) * x, (rows.max() + 1) * y


def test_geojson(subject, tmp_path):
    path, _ = export(subject, "geojson", tmp_path)
    (feature,) = json.loads(path.read_text())["features"]
    (ring,) = feature["geometry"]["coordinates"]
    assert [min(x for x, _ in ring), min(y for _, y in ring)] == [MARK.x, MARK.y]
    assert [max(x for x, _ in ring), max(y for _, y in ring)] == [MARK.x1, MARK.y1]


def test_geojson_of_cells(subject, tmp_path):
    path, record = export(subject, "geojson", tmp_path, top=5)
    (feature,) = json.loads(path.read_text())["features"]
    corners = np.array(feature["geometry"]["coordinates"][0])
    found = (*corners.min(axis=0), *corners.max(axis=0))
    assert np.abs(np.subtract(found, cell_region())).max() <= 0.5
    assert record["features_left_out"] == 0


def test_tables(subject, tmp_path):
    path, record = export(subject, "csv", tmp_path)
    with path.open(newline="") as file:
        region, cell = csv.DictReader(file)
    assert record["rows"] == 2
    assert [float(region[name]) for name in ("x", "y", "width", "height")] == list(MARK)
    assert (region["kind"], region["attention"], region["rank"], region["label"]) == ("region", "1", "1", "tumour")
    assert region["probability_normal"] == "0.25"
    left, top, right, bottom = cell_region()
    assert [float(cell["x"]), float(cell["y"])] == [left, top]
    assert float(cell["width"]) == pytest.approx(right - left)
    assert float(cell["height"]) == pytest.approx(bottom - top)
    assert float(cell["evidence:tumour"]) == -2.5
    path, _ = export(subject, "parquet", tmp_path)
    rows = parquet.read_table(path).to_pylist()
    assert [rows[0][name] for name in ("x", "y", "width", "height")] == list(MARK)
    assert rows[0]["evidence:tumour"] is None
    assert rows[1]["kind"] == "cell"


@pytest.mark.parametrize("size", [1501, 400, 333])
def test_png(subject, tmp_path, size):
    path, record = export(subject, "png", tmp_path, size=size, transparent=True)
    downsample = record["downsample"]
    with Image.open(path) as image:
        box = coloured_box(image, downsample)
        assert json.loads(image.text["wsi-attn"])["downsample"] == downsample
    assert np.abs(np.subtract(box, cell_region())).max() <= downsample[0]
    path, record = export(subject, "png", tmp_path / "slide", size=size, alpha=0.0)
    with Image.open(path) as image:
        # outlines have a frame around the mark: look inside of it only
        rows, columns = math.ceil(SIZE.height / downsample[1]), math.ceil(SIZE.width / downsample[0])
        left, top = int(MARK.x / downsample[0]), int(MARK.y / downsample[1])
        right, bottom = math.ceil(MARK.x1 / downsample[0]), math.ceil(MARK.y1 / downsample[1])
        picture = np.asarray(image)[:rows, :columns]
        assert picture[top + 1 : bottom - 1, left + 1 : right - 1].max() <= 120  # glass is 235


@pytest.mark.parametrize("layout", ["subifd", "pages"])
@pytest.mark.parametrize("downsample", [1.0, 2.3])
def test_ome_tiff(subject, tmp_path, layout, downsample):
    path, _ = export(subject, "ome-tiff", tmp_path, downsample=downsample, alpha=0.0, pyramid=layout)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        (page, *others) = tiff.series[0].levels if layout == "subifd" else tiff.pages
        levels = [level.asarray() for level in (page, *others)]
        pixels = ElementTree.fromstring(tiff.pages[0].description).find(f"{OME}Image/{OME}Pixels")
    assert (int(pixels.get("SizeX")), int(pixels.get("SizeY"))) == levels[0].shape[1::-1]
    if subject.mpp:
        assert float(pixels.get("PhysicalSizeX")) / subject.mpp.x == pytest.approx(downsample)
        assert float(pixels.get("PhysicalSizeY")) / subject.mpp.y == pytest.approx(downsample)
    else:
        assert pixels.get("PhysicalSizeX") is None
    assert len(levels) == 1 + math.ceil(math.log2(SIZE.width / downsample / 512))
    for index, level in enumerate(levels):
        factor = downsample * 2**index
        found = darkness_at(level, (factor, factor))
        assert np.abs(np.subtract(found, centre())).max() <= min(factor, 2), index


def test_ome_tiff_by_openslide(subject, tmp_path):
    path, _ = export(subject, "ome-tiff", tmp_path, downsample=1.0, alpha=0.0, pyramid="pages")
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == SIZE
        assert slide.level_count == 3
        if subject.mpp:
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(MPP.x, rel=1e-3)
            assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(MPP.y, rel=1e-3)
        part = slide.read_region((MARK.x - 20, MARK.y - 20), 0, (100, 100)).convert("RGB")
        x, y = darkness_at(np.asarray(part), (1, 1))
        assert np.abs(np.subtract((x + MARK.x - 20, y + MARK.y - 20), centre())).max() < 0.5


def test_ome_tiff_colours_lie_on_the_cell(subject, tmp_path):
    path, _ = export(subject, "ome-tiff", tmp_path, downsample=1.0, alpha=1.0, of=("attention",))
    picture = tifffile.imread(path, level=0).astype(int)
    rows, columns = np.nonzero(np.ptp(picture, axis=-1) > 60)  # colour, where slide and mark are grey
    box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert np.abs(np.subtract(box, cell_region())).max() <= 1


def test_ome_tiff_of_values(subject, tmp_path):
    path, record = export(subject, "ome-tiff", tmp_path, values=True, of=("evidence:tumour",))
    with tifffile.TiffFile(path) as tiff:
        values = tiff.series[0].asarray()
        xml = ElementTree.fromstring(tiff.pages[0].description)
    assert record["downsample"] == list(CELL)
    assert values.dtype == np.float32
    ((row, column),) = np.argwhere(~np.isnan(values))
    assert values[row, column] == -2.5
    pixels = xml.find(f"{OME}Image/{OME}Pixels")
    if subject.mpp:
        left = column * float(pixels.get("PhysicalSizeX")) / subject.mpp.x
        top = row * float(pixels.get("PhysicalSizeY")) / subject.mpp.y
        assert (left, top) == pytest.approx(cell_region()[:2])
    assert "hand-made" in ElementTree.tostring(xml, encoding="unicode")


def test_ome_zarr(subject, tmp_path):
    path, _ = export(subject, "ome-zarr", tmp_path)
    group = zarr.open_group(path, mode="r")
    OmeZarrImage.from_zarr(group)
    (image,) = group.attrs["ome"]["multiscales"]
    unit = subject.mpp or (1.0, 1.0)
    assert all(axis.get("unit") == ("micrometer" if subject.mpp else None) for axis in image["axes"])
    for level in image["datasets"]:
        scale, translation = (transform[transform["type"]] for transform in level["coordinateTransformations"])
        ((row, column),) = np.argwhere(~np.isnan(group[level["path"]][...]))
        # the middle of the pixel, where the middle of level-0 pixel (0, 0) is the origin
        x = (column * scale[1] + translation[1]) / unit[0] + 0.5
        y = (row * scale[0] + translation[0]) / unit[1] + 0.5
        left, top, right, bottom = cell_region()
        assert (x, y) == pytest.approx(((left + right) / 2, (top + bottom) / 2))


def test_dzi(subject, tmp_path):
    path, _ = export(subject, "dzi", tmp_path, alpha=0.0)
    root = ElementTree.parse(path).getroot()
    size = root.find("{*}Size")
    width, height, tile = int(size.get("Width")), int(size.get("Height")), int(root.get("TileSize"))
    assert (width, height, root.get("Overlap")) == (*SIZE, "0")
    folder = path.with_name("marked_files")
    highest = math.ceil(math.log2(max(SIZE)))
    assert sorted(int(level.name) for level in folder.iterdir()) == list(range(highest + 1))
    for level in range(highest, highest - 4, -1):
        factor = 2 ** (highest - level)
        columns, rows = math.ceil(width / factor), math.ceil(height / factor)
        whole = Image.new("RGB", (columns, rows))
        files = list((folder / str(level)).iterdir())
        assert len(files) == math.ceil(columns / tile) * math.ceil(rows / tile)
        for file in files:
            column, row = map(int, re.fullmatch(r"(\d+)_(\d+)\.jpeg", file.name).groups())
            with Image.open(file) as part:
                assert part.size == (min(tile, columns - column * tile), min(tile, rows - row * tile))
                whole.paste(part, (column * tile, row * tile))
        found = darkness_at(np.asarray(whole), (factor, factor))
        assert np.abs(np.subtract(found, centre())).max() <= min(factor, 2), level


@pytest.mark.parametrize("size", [4096, 500])
def test_html(subject, tmp_path, size):
    path, _ = export(subject, "html", tmp_path, size=size)
    text = path.read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    slide = data["slide"]
    picture = np.asarray(image_of(slide["image"]))
    assert picture.shape[:2] == (slide["rows"], slide["columns"])
    factors = slide["downsample_x"], slide["downsample_y"]
    assert np.abs(np.subtract(darkness_at(picture, factors), centre())).max() <= factors[0]
    assert [layer["name"] for layer in data["layers"]] == ["attention", "evidence:tumour"]
    for layer in data["layers"]:
        factors = layer["downsample_x"], layer["downsample_y"]
        box = coloured_box(image_of(layer["image"]), factors)
        assert np.abs(np.subtract(box, cell_region())).max() <= factors[0]
    (region,) = data["regions"]
    assert [region[name] for name in ("x", "y", "width", "height")] == list(MARK)
    assert np.asarray(image_of(region["image"])).max() <= 30  # the patch is the mark and nothing else
    assert data["mpp"] == (list(subject.mpp) if subject.mpp else None)


def image_of(uri):
    """The picture of a data URI."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
