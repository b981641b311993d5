"""What a store says, what it refuses, and that others can read it."""

import json
import threading

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image import Image

from tests.slides import ArraySlide, stained
from wsi_attn.errors import (
    RegionError,
    SlideNotFoundError,
    SlideReadError,
    StoreDamagedError,
    StoreIncompleteError,
    StoreSchemaError,
    UnknownNameError,
)
from wsi_attn.geometry import Mpp, Region
from wsi_attn.provenance import software
from wsi_attn.store.schema import SEAL, StoreMeta, read_meta
from wsi_attn.store.sharding import crc32c
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tiling.write import TileConfig, tile_slide


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A slide with everything, and its store."""
    slide = ArraySlide(
        stained(200, 150),
        levels=(1, 2.5),
        mpp=Mpp(0.5, 0.25),
        broken_regions=[(1, Region(0, 0, 3, 3))],
        icc_profile=b"\0icc",
    )
    path = tmp_path_factory.mktemp("store") / "case 7 é.zarr"
    tile_slide(slide, path, TileConfig(tile_size=32, workers=2))
    return slide, path


def edited(path, folder, change, *, sealed=False):
    """A store of nothing but the metadata of `path`, changed, with the right checksum or the old one."""
    group = json.loads((path / "zarr.json").read_text())
    change(group["attributes"])
    if sealed:
        group["attributes"]["wsi_attn"][SEAL] = "00000000"
        crc = f"{crc32c(json.dumps(group).encode()):08x}"
        group["attributes"]["wsi_attn"][SEAL] = crc
    folder.mkdir()
    (folder / "zarr.json").write_text(json.dumps(group))
    return folder


def test_says_what_the_slide_said(made):
    slide, path = made
    with TileStore.open(path) as store:
        theirs, ours = slide.info, store.info
        for name in ("size0", "mpp", "mpp_source", "objective_power", "fingerprint", "vendor", "icc_profile", "bounds"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert (ours.reader, ours.path, ours.name) == ("store", path, "case 7 é")
        assert [(level.size, level.downsample_x) for level in ours.levels] == [
            (level.size, level.downsample_x) for level in theirs.levels
        ]
        assert store.meta.software == software()
        assert store.meta.parameters == TileConfig(tile_size=32).parameters()
    with TileStore.open(path, Mpp(1, 1)) as store:
        assert (store.info.mpp, store.info.mpp_source) == (Mpp(1, 1), "user")


def test_meta_survives_json(made):
    meta = read_meta(made[1])
    assert StoreMeta.from_json(json.loads(json.dumps(meta.to_json()))) == meta


def test_is_valid_ome_zarr(made, tmp_path):
    image = Image.from_zarr(zarr.open_group(made[1], mode="r"))
    multiscale = image.attributes.ome.multiscales[0]
    assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
    assert [axis.unit for axis in multiscale.axes] == [None, "micrometer", "micrometer"]
    assert [list(data.coordinateTransformations[0].scale) for data in multiscale.datasets] == [
        [1.0, 0.25, 0.5],
        [1.0, 0.625, 1.25],
    ]
    assert image.labels is not None
    assert image.labels.label_paths == ["tissue"]
    plain = tmp_path / "plain.zarr"
    tile_slide(ArraySlide(stained(60, 50), mpp=None), plain, TileConfig(tile_size=32))
    image = Image.from_zarr(zarr.open_group(plain, mode="r"))
    assert [axis.unit for axis in image.attributes.ome.multiscales[0].axes] == [None, None, None]
    assert zarr.open_array(plain / "0", mode="r").metadata.dimension_names == ("c", "y", "x")


def test_arrays_explain_themselves(made):
    root = zarr.open_group(made[1], mode="r")
    coords, score = root["tiles/default/coords"], root["tiles/default/scores/tissue"]
    assert "level-0 pixels" in coords.attrs["columns"]
    assert coords.attrs["tile_size"] == 32
    assert coords.attrs["tile_extent0"] == [32.0, 32.0]
    assert (coords.dtype, score.dtype, root["tiles/default/readable"].dtype) == (np.int64, np.float32, np.bool_)
    assert (score.attrs["range"], score.attrs["unit"]) == ([0.0, 1.0], "fraction of area")
    assert root["labels/tissue/0"].dtype == np.uint8


def test_recorded_damage_is_an_error_and_nothing_else_is(made):
    slide, path = made
    with TileStore.open(path) as store:
        with pytest.raises(SlideReadError):
            store.read_region((0, 0), 1, (5, 5))
        assert [list(box) for box in store.meta.unreadable] == [[1, 0, 0, 80, 80]]
        np.testing.assert_array_equal(store.read_region((80, 0), 1, (32, 32)), slide.read_region((80, 0), 1, (32, 32)))
        np.testing.assert_array_equal(store.read_region((0, 0), 0, (32, 32)), slide.read_region((0, 0), 0, (32, 32)))


def test_refuses_regions_that_cannot_be(made):
    with TileStore.open(made[1]) as store:
        for level, size in ((2, (1, 1)), (-1, (1, 1)), (0, (0, 1))):
            with pytest.raises(RegionError):
                store.read_region((0, 0), level, size)
        with pytest.raises(UnknownNameError) as caught:
            store.coords("defalt")
        assert "default" in caught.value.known
        with pytest.raises(UnknownNameError) as caught:
            store.scores("default", "tisue")
        assert "tissue" in caught.value.known
    with pytest.raises(SlideReadError):
        store.coords()


def test_many_threads_read_the_same(made):
    slide, path = made
    wrong = []
    with TileStore.open(path) as store:

        def read(seed):
            rng = np.random.default_rng(seed)
            for x, y in rng.integers(0, 150, (10, 2)).tolist():
                if not np.array_equal(store.read_region((x, y), 0, (40, 30)), slide.read_region((x, y), 0, (40, 30))):
                    wrong.append((x, y))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_refuses_what_is_not_ours(made, tmp_path):
    with pytest.raises(SlideNotFoundError):
        TileStore.open(tmp_path / "none.zarr")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.zarr").write_text("{}")
    zarr.create_group(tmp_path / "other.zarr")
    for name in ("folder", "file.zarr", "other.zarr"):
        with pytest.raises(StoreSchemaError, match="store of wsi-attn"):
            TileStore.open(tmp_path / name)
    newer = edited(made[1], tmp_path / "newer.zarr", lambda a: a["wsi_attn"].update(schema_version=99))
    with pytest.raises(StoreSchemaError, match="schema 99"):
        TileStore.open(newer)
    torn = edited(made[1], tmp_path / "torn.zarr", lambda a: a["wsi_attn"].pop("levels"))
    with pytest.raises(StoreDamagedError, match="levels"):
        TileStore.open(torn)
    unfinished = edited(made[1], tmp_path / "half.zarr", lambda a: a["wsi_attn"].update(state="writing"), sealed=True)
    with pytest.raises(StoreIncompleteError, match="wsi-attn tile"):
        TileStore.open(unfinished)


def test_damaged_and_lost_shards_are_errors(tmp_path):
    path = tmp_path / "s.zarr"
    tile_slide(ArraySlide(stained(64, 64)), path, TileConfig(tile_size=32))
    shard = path / "0" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 0xFF
    shard.write_bytes(data)
    with TileStore.open(path) as store, pytest.raises(SlideReadError):
        store.read_region((0, 0), 0, (32, 32))
    shard.unlink()
    with TileStore.open(path) as store, pytest.raises(SlideReadError):
        store.read_region((0, 0), 0, (32, 32))


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("mpp[0]", lambda own: own.update(mpp=["0.5", 0.5])),
        ("mpp", lambda own: own.update(mpp="0.5")),
        ("mpp[1]", lambda own: own.update(mpp=[0.5, -1])),
        ("levels[0].width", lambda own: own["levels"][0].update(width="200")),
        ("levels[1].tile_size[0]", lambda own: own["levels"][1].update(tile_size=[0, 32])),
        ("levels", lambda own: own.update(levels=[])),
        ("levels", lambda own: own.update(levels=7)),
        ("source.size0", lambda own: own["source"].update(size0=[1])),
        ("source.bounds[2]", lambda own: own["source"].update(bounds=[0, 0, 1.5, 2])),
        ("source.icc_profile", lambda own: own["source"].update(icc_profile="!")),
        ("source", lambda own: own.update(source=None)),
        ("state", lambda own: own.update(state="done")),
        ("tissue.fraction", lambda own: own["tissue"].update(fraction=None)),
        ("unreadable[0]", lambda own: own.update(unreadable=[[1]])),
        ("files", lambda own: own.update(files=[])),
        ("files[...].bytes", lambda own: own.update(files={"0/zarr.json": {"bytes": -1, "crc32c": 0}})),
        ("files", lambda own: own.update(files={"../secret": {"bytes": 1, "crc32c": 0}})),
        ("files", lambda own: own.update(files={"7/c/0/0/0": {"bytes": 1, "crc32c": 0}})),
        ("addition", lambda own: own.update(addition=[])),
    ],
)
def test_invalid_metadata_names_file_and_field(made, tmp_path, field, change):
    path = edited(made[1], tmp_path / "s.zarr", lambda attributes: change(attributes["wsi_attn"]), sealed=True)
    with pytest.raises(StoreDamagedError) as caught:
        TileStore.open(path)
    assert f"{path / 'zarr.json'} is damaged: wsi_attn.{field}: " in str(caught.value)


def test_changed_metadata_is_refused(made, tmp_path):
    path = edited(made[1], tmp_path / "s.zarr", lambda attributes: attributes["wsi_attn"].update(mpp=[0.5, 0.26]))
    with pytest.raises(StoreDamagedError, match=r"zarr.json has changed"):
        TileStore.open(path)
