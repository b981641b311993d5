"""Stores: scores of overlapping tiles and pixels come back where they lie, also from a slide with bounds."""

import csv
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
import zarr

from tests.slides import ArraySlide, stained
from tests.unit.export.marks import MARK, MPP, SIZE, centre, darkness_at, marked
from wsi_attn.errors import OutputExistsError, UnknownNameError, UsageError
from wsi_attn.export.config import ExportConfig
from wsi_attn.export.run import export_subject, target_of
from wsi_attn.export.source import open_export_source, results_in
from wsi_attn.geometry import Mpp, Region
from wsi_attn.store.additions import write_root
from wsi_attn.store.checked_files import scan
from wsi_attn.store.schema import read_root
from wsi_attn.tiling.config import TileConfig
from wsi_attn.tiling.write import tile_slide

TILE, OVERLAP = 128, 48


@pytest.fixture(params=["bounds", "non-dyadic"])
def subject(request, tmp_path):
    slide = ArraySlide(marked(), levels=(1.0, 2.7, 7.3) if request.param == "non-dyadic" else (1.0, 4.0), mpp=MPP)
    if request.param == "bounds":
        slide.info = replace(slide.info, bounds=Region(311, 207, 1000, 800))
    path = tmp_path / "marked.zarr"
    tile_slide(slide, path, TileConfig(tile_size=TILE, overlap=OVERLAP, tissue="none", min_tissue=0.0, workers=1))
    # One tile's score stands out: the one whose middle is nearest to the mark's.
    coords = zarr.open_array(path / "tiles" / "default" / "coords", mode="r")[...]
    write_score(path, ..., np.abs(coords + TILE / 2 - centre()).max(axis=1) == nearest(coords))
    return open_export_source(path)


def write_score(store, index, value):
    """Change stored scores as a writer of the store does, with their checksums."""
    scores = store / "tiles" / "default" / "scores" / "tissue"
    zarr.open_array(scores, mode="r+")[index] = value
    meta, _ = read_root(store)
    changed = scan(scores, "tiles/default/scores/tissue")
    write_root(store, replace(meta, files={**meta.files, **changed}))


def nearest(coords):
    return np.abs(coords + TILE / 2 - centre()).max(axis=1).min()


def highest(subject):
    """Corner of the tile that stands out, read without us."""
    folder = subject.path / "tiles" / "default"
    coords = zarr.open_array(folder / "coords", mode="r")[...]
    return coords[zarr.open_array(folder / "scores" / "tissue", mode="r")[...] == 1][0].tolist()


def export(subject, to, tmp_path, **options):
    config = ExportConfig(workers=1, **options)
    path = target_of(subject, to, tmp_path / "out", config)
    export_subject(subject, to, path, config)
    return path


def test_layers_are_scores_and_tissue(subject):
    assert subject.layers[0] == "score:tissue"  # the usual one first
    assert subject.layers[-1] == "tissue"
    assert subject.layer("tissue").values.min() == 1
    with pytest.raises(UnknownNameError) as caught:
        subject.layer("score:tisue")
    assert "score:tissue" in caught.value.known


def test_geojson_and_csv_hold_the_tiles(subject, tmp_path):
    features = json.loads(export(subject, "geojson", tmp_path, top=1).read_text())["features"]
    assert len(features) == 1
    # GeoJSON counts from the corner of the bounds, CSV from that of the whole slide.
    corner = np.subtract(highest(subject), subject.qupath_origin).tolist()
    assert features[0]["geometry"]["coordinates"][0][0] == corner
    assert features[0]["properties"]["objectType"] == "detection"
    measurements = features[0]["properties"]["measurements"]
    assert (measurements["tissue"], measurements["rank"]) == (1.0, 1)
    assert all(np.isfinite(value) for value in measurements.values())
    assert len(features[0]["properties"]["color"]) == 3
    with export(subject, "csv", tmp_path).open(newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["tissue"] == "1"]
    assert [int(row["x"]), int(row["y"]), int(row["width"])] == [*highest(subject), TILE]


def test_blended_scores_lie_on_their_tile(subject, tmp_path):
    group = zarr.open_group(export(subject, "ome-zarr", tmp_path), mode="r")
    (scale, translation) = group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    values = group["0"][...]
    rows, columns = np.nonzero(values > 0)
    cell = np.array(scale["scale"]) / (MPP.y, MPP.x)
    assert np.array(translation["translation"]) / (MPP.y, MPP.x) == pytest.approx((cell - 1) / 2)
    x, y = highest(subject)
    assert (columns.min() * cell[1], rows.min() * cell[0]) == pytest.approx((x, y))
    assert ((columns.max() + 1) * cell[1], (rows.max() + 1) * cell[0]) == pytest.approx((x + TILE, y + TILE))
    assert values.max() == 1  # where the tile lies alone
    assert values[values > 0].min() == pytest.approx(0.25)  # where four tiles meet


def test_pixels_as_ome_tiff(subject, tmp_path):
    path = export(subject, "ome-tiff", tmp_path)
    assert path.name == "marked.ome.tiff"
    with tifffile.TiffFile(path) as tiff:
        for index, level in enumerate(tiff.series[0].levels):
            factor = 2.0**index
            found = darkness_at(level.asarray(), (factor, factor))
            assert np.abs(np.subtract(found, centre())).max() <= 1
        plain = tiff.series[0].levels[0].asarray().astype(int)
    assert plain.shape == (SIZE.height, SIZE.width, 3)
    assert np.abs(plain - marked()).mean() < 1
    assert (plain[MARK.y + 2 : MARK.y1 - 2, MARK.x + 2 : MARK.x1 - 2] < 30).all()


def test_dzi_of_a_store(subject, tmp_path):
    path = export(subject, "dzi", tmp_path)
    level = path.with_name("marked_files") / "11"
    column, row = int(centre()[0] // 254), int(centre()[1] // 254)
    tile = cv2.imread(str(level / f"{column}_{row}.jpeg"))
    x, y = darkness_at(tile, (1, 1))
    part = MARK.intersection(Region(column * 254, row * 254, 254, 254))  # the mark lies on the edge of two tiles
    assert np.abs(np.subtract((x + column * 254, y + row * 254), centre(part))).max() <= 1


def test_what_lies_there_is_kept(subject, tmp_path):
    path = export(subject, "csv", tmp_path)
    config = ExportConfig(workers=1)
    assert export_subject(subject, "csv", path, config)["state"] == "skipped"
    path.write_text("mine")
    with pytest.raises(OutputExistsError):
        export_subject(subject, "csv", path, config)
    assert export_subject(subject, "csv", path, config, overwrite=True)["state"] == "written"
    with pytest.raises(UsageError):
        export_subject(subject, "ome-zarr", subject.path, config, overwrite=True)
    other = tmp_path / "other.zarr"
    tile_slide(ArraySlide(marked(), mpp=MPP), other, TileConfig(tissue="none", workers=1))
    with pytest.raises(OutputExistsError) as caught:
        export_subject(subject, "ome-zarr", other, config, overwrite=True)
    assert caught.value.path == other
    (tmp_path / "mine.csv").mkdir()
    with pytest.raises(OutputExistsError) as caught:
        export_subject(subject, "csv", tmp_path / "mine.csv", config, overwrite=True)
    assert caught.value.path == tmp_path / "mine.csv"


def test_tissue_is_outlined(tmp_path):
    slide = ArraySlide(stained(900, 700), levels=(1.0, 4.0), mpp=MPP)
    tile_slide(slide, tmp_path / "s.zarr", TileConfig(tile_size=64, workers=1))
    subject = open_export_source(tmp_path / "s.zarr")
    path = export(subject, "geojson", tmp_path, of=("tissue",))
    (feature,) = json.loads(path.read_text())["features"]
    outline = np.array(feature["geometry"]["coordinates"][0])
    assert np.abs(outline.min(axis=0) - (0.15 * 900, 0.15 * 700)).max() < 20
    assert np.abs(outline.max(axis=0) - (0.85 * 900, 0.85 * 700)).max() < 20
    assert feature["properties"]["objectType"] == "annotation"


def test_a_coarse_store_is_exported_as_fine_as_it_is(tmp_path):
    slide = ArraySlide(marked(), levels=(1.0, 4.0), mpp=Mpp(0.5, 0.5))
    tile_slide(slide, tmp_path / "c.zarr", TileConfig(tile_size=64, mpp=1.3, tissue="none", workers=1))
    subject = open_export_source(tmp_path / "c.zarr")
    config = ExportConfig(workers=1)
    record = export_subject(subject, "ome-tiff", tmp_path / "c.ome.tiff", config)
    assert record["downsample"] == pytest.approx([2.6, 2.6])
    with tifffile.TiffFile(tmp_path / "c.ome.tiff") as tiff:
        picture = tiff.series[0].levels[0].asarray()
    assert np.abs(np.subtract(darkness_at(picture, (2.6, 2.6)), centre())).max() <= 2.6


def test_new_scores_are_another_export(subject, tmp_path):
    path, config = tmp_path / "s.ome.tiff", ExportConfig(workers=1, values=True)
    assert export_subject(subject, "ome-tiff", path, config)["state"] == "written"
    assert export_subject(subject, "ome-tiff", path, config)["state"] == "skipped"
    write_score(subject.path, 0, 0.5)
    with pytest.raises(OutputExistsError) as caught:
        export_subject(subject, "ome-tiff", path, config)
    assert caught.value.path == path


def test_folders_give_their_stores(subject):
    assert results_in(subject.path.parent) == [subject.path]
