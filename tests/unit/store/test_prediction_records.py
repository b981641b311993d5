"""Records of predictions: small for any slide, validated, lossless, and complete or known to be incomplete."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from wsi_attn.errors import OutputExistsError, PredictionError
from wsi_attn.geometry import Frame, Size
from wsi_attn.paths import path_from_text, path_to_text, printable
from wsi_attn.store.prediction_maps import AttentionMap
from wsi_attn.store.predictions import SlidePrediction, maps_path, read_prediction, write_prediction
from wsi_attn.store.records import AttendedRegion, Referral, read_record

MOST = 100_000
OLD = Path(__file__).parents[2] / "data" / "schema-1.prediction.json"


def prediction(**changes: Any) -> SlidePrediction:
    values = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    values[0, 0] = np.nan
    frame = Frame(Size(8, 6), 90.5, 90.25)
    made = SlidePrediction(
        slide="/slides/a.svs",
        size0=Size(700, 500),
        label="dense",
        probabilities={"dense": 0.7, "sparse": 0.3},
        uncertainty={"entropy": 0.6},
        tissue_fraction=0.4,
        unreadable_tiles=1,
        attention=(AttendedRegion(100, 100, 64, 64, 0.6), AttendedRegion(300, 200, 64, 64, 0.4)),
        model={"name": "test", "sha256": "ab" * 32},
        mpp=(0.25, 0.26),
        seconds=1.5,
        software={"wsi-attn": "0.1.0"},
        attention_map=AttentionMap(frame, values),
        fingerprint="f" * 64,
        maps={"evidence:dense": AttentionMap(frame, -values), "Evidence:Dense": AttentionMap(frame, values * 2)},
    )
    return replace(made, **changes)


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "a.prediction.json"
    write_prediction(prediction(**changes), path)
    return path


def same(found: SlidePrediction, made: SlidePrediction) -> bool:
    for name, value in {**made.maps, "attention": made.attention_map}.items():
        stored = found.attention_map if name == "attention" else found.maps[name]
        assert stored.frame == value.frame
        np.testing.assert_array_equal(stored.values, value.values)
    return replace(found, attention_map=made.attention_map, maps=made.maps, slide=made.slide) == made


def test_a_record_and_its_maps_come_back(tmp_path: Path) -> None:
    made = prediction(coverage=0.9, prediction_set=("dense",), referral=Referral("entropy", 0.5), mc_dropout=3, seed=4)
    write_prediction(made, tmp_path / "a.prediction.json")
    found = read_prediction(tmp_path / "a.prediction.json")
    assert same(found, made)
    assert found.refer is True
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.prediction.json", "a.prediction.zarr"]


def test_plain_zarr_reads_the_maps(tmp_path: Path) -> None:
    group = zarr.open_group(maps_path(written(tmp_path)), mode="r")
    assert sorted(group.array_keys()) == ["Evidence-Dense-2", "attention", "evidence-dense"]
    attention = group["attention"]
    np.testing.assert_array_equal(attention[...], prediction().attention_map.values)
    assert attention.attrs["downsample"] == [90.5, 90.25]


LONG = "ß\x01" * 30_000

EXTREMES: dict[str, dict[str, Any]] = {
    "labels": {
        "label": "label 7",
        "probabilities": {f"label {index}": 1 / 20_000 for index in range(20_000)},
        "prediction_set": tuple(f"label {index}" for index in range(20_000)),
        "coverage": 0.9,
    },
    "label name": {"label": LONG, "probabilities": {LONG: 0.9, "b": 0.1}},
    "regions": {
        "attention": tuple(AttendedRegion(i, i, 10**9 + i, 10**9, 1 / 50_000 + i * 1e-19) for i in range(50_000))
    },
    "warnings": {"warnings": tuple(f"{LONG} {index}" for index in range(10))},
    "model": {"model": {"name": LONG, "sha256": "0" * 64}},
    "software": {"software": {f"package {index}": "1" for index in range(9_000)}},
    "uncertainty": {"uncertainty": {f"term {index}": 0.5 for index in range(9_000)}},
    "path": {"slide": "/" + "/".join(["\udce9" * 240] * 17) + ".svs"},
}


@pytest.mark.parametrize("name", [*EXTREMES, "all"])
def test_no_record_exceeds_100_kb_and_nothing_is_lost(name: str, tmp_path: Path) -> None:
    changes = EXTREMES.get(name) or {key: value for change in EXTREMES.values() for key, value in change.items()}
    if name == "all":
        changes = {**changes, "label": LONG, "probabilities": {**EXTREMES["labels"]["probabilities"], LONG: 0.5}}
    made = prediction(**changes)
    path = written(tmp_path, **changes)
    assert path.stat().st_size <= MOST
    assert len(json.dumps(made.record(), ensure_ascii=False).encode()) <= MOST
    found = read_prediction(path)
    assert same(found, made)
    record = json.loads(path.read_text())
    assert record["attention_count"] == len(made.attention)
    assert len(record["attention"]) <= 100
    assert bool(record.get("truncated")) == (name != "path")


def test_a_value_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(PredictionError):
        written(tmp_path, probabilities={"dense": float("nan")})
    with pytest.raises(PredictionError, match="tissue_fraction"):
        written(tmp_path, tissue_fraction=1.5)
    assert list(tmp_path.iterdir()) == []


BAD: dict[str, tuple[str, Any]] = {
    "missing": ("label", None),
    "text for a number": ("seconds", "fast"),
    "negative": ("unreadable_tiles", -1),
    "a float for pixels": ("size", [700.5, 500]),
    "a fraction above 1": ("tissue_fraction", 2),
    "a list for a mapping": ("probabilities", [1, 2]),
    "null in a mapping": ("probabilities", {"dense": None}),
    "a region without width": ("attention", [{"x": 1, "y": 1, "height": 1, "weight": 0.5}]),
    "a model without a hash": ("model", {"name": "a"}),
    "an unknown version": ("schema_version", 3),
    "no version": ("schema_version", None),
    "zero microns": ("mpp", [0, 0.5]),
}


@pytest.mark.parametrize("name", list(BAD))
@pytest.mark.parametrize("version", [1, 2])
def test_the_file_and_the_field_are_named(name: str, version: int, tmp_path: Path) -> None:
    path = written(tmp_path)
    if version == 1:
        shutil.copy(OLD, path)
    field, value = BAD[name]
    record = json.loads(path.read_text())
    record[field] = value
    if name in ("missing", "no version"):
        del record[field]
    path.write_text(json.dumps(record))
    with pytest.raises(PredictionError, match=field) as caught:
        read_prediction(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"a": NaN}', b"\xff\xfe", b"null", b"[" * 100_000])
def test_what_is_no_json_object(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.prediction.json"
    path.write_bytes(data)
    with pytest.raises(PredictionError):
        read_record(path)


def test_nan_and_infinity_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    for value in ("NaN", "Infinity", "1e999"):
        path.write_text(path.read_text().replace('"seconds": 1.5', f'"seconds": {value}'))
        with pytest.raises(PredictionError):
            read_prediction(path)
        written(tmp_path)


def test_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "a.prediction.json").mkdir()
    with pytest.raises(PredictionError):
        read_record(tmp_path / "a.prediction.json")


def test_schema_version_1_is_read() -> None:
    found = read_prediction(OLD)
    assert (found.label, len(found.attention), found.size0) == ("moderate", 12, (2220, 2967))
    assert found.attention_map.values.shape == (47, 35)
    assert float(np.nansum(found.attention_map.values)) == pytest.approx(1, abs=1e-3)
    assert list(found.maps) == ["evidence:dense", "evidence:moderate", "evidence:sparse", "uncertainty"]
    assert Path(found.slide) == OLD.with_name("cmu1_small_region.svs")


def test_schema_version_1_with_fewer_values_than_cells(tmp_path: Path) -> None:
    record = json.loads(OLD.read_text())
    record["attention_map"]["values"].pop()
    (tmp_path / "a.prediction.json").write_text(json.dumps(record))
    with pytest.raises(PredictionError, match="attention_map"):
        read_prediction(tmp_path / "a.prediction.json")


def damage_missing(maps: Path) -> None:
    shutil.rmtree(maps)


def damage_other_run(maps: Path) -> None:
    write_prediction(prediction(tissue_fraction=0.5, fingerprint="e" * 64), maps.with_name("b.prediction.json"))
    shutil.rmtree(maps)
    maps.with_name("b.prediction.zarr").rename(maps)


def damage_no_json(maps: Path) -> None:
    (maps / "zarr.json").write_text("{}")


def damage_lost_chunk(maps: Path) -> None:
    (maps / "attention" / "c" / "0" / "0").unlink()


def damage_changed_chunk(maps: Path) -> None:
    chunk = maps / "attention" / "c" / "0" / "0"
    chunk.write_bytes(bytes(byte ^ 255 for byte in chunk.read_bytes()))


def damage_attributes(maps: Path) -> None:
    document = json.loads((maps / "zarr.json").read_text())
    document["attributes"]["wsi_attn_prediction"]["maps"][0]["downsample"] = [1.0, 1.0]
    (maps / "zarr.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    "damage",
    [
        damage_missing,
        damage_other_run,
        damage_no_json,
        damage_lost_chunk,
        damage_changed_chunk,
        damage_attributes,
    ],
)
def test_maps_that_are_gone_damaged_or_of_another_run(damage: Any, tmp_path: Path) -> None:
    path = written(tmp_path)
    damage(maps_path(path))
    with pytest.raises(PredictionError, match=r"a\.prediction\.zarr"):
        read_prediction(path)
    assert read_record(path).label == "dense"  # the record itself stays readable
    if damage is not damage_no_json:  # which could be anything
        written(tmp_path)
        assert same(read_prediction(path), prediction())


def test_a_kill_between_maps_and_record_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("wsi_attn.outputs.files.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            written(tmp_path)
    assert not (tmp_path / "a.prediction.json").exists()
    path = written(tmp_path)  # resumes
    with monkeypatch.context() as patched:
        patched.setattr("wsi_attn.outputs.files.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            written(tmp_path, attention_map=prediction().maps["evidence:dense"])
    with pytest.raises(PredictionError, match="another run"):
        read_prediction(path)


def test_foreign_files_at_the_place_of_the_maps_are_kept(tmp_path: Path) -> None:
    mine = tmp_path / "a.prediction.zarr"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError) as caught:
        written(tmp_path)
    assert caught.value.path == mine
    assert [path.name for path in tmp_path.iterdir()] == ["a.prediction.zarr"]
    assert (mine / "notes.txt").read_text() == "mine"


def test_slide_is_found_after_both_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one" / "slides").mkdir(parents=True)
    (tmp_path / "one" / "slides" / "a.svs").write_text("pixels")
    monkeypatch.chdir(tmp_path / "one")
    write_prediction(prediction(slide="slides/a.svs"), Path("out/a.prediction.json"))
    monkeypatch.chdir(tmp_path)
    assert read_prediction(Path("one/out/a.prediction.json")).slide == str(tmp_path / "one" / "slides" / "a.svs")
    (tmp_path / "one").rename(tmp_path / "two")
    found = read_prediction(Path("two/out/a.prediction.json"))
    assert found.slide == str(tmp_path / "two" / "slides" / "a.svs")
    record = json.loads(Path("two/out/a.prediction.json").read_text())
    assert record["slide"] == str(tmp_path / "one" / "slides" / "a.svs")
    assert record["slide_relative"] == "../slides/a.svs"


@pytest.mark.parametrize(
    "name", [b"plain.svs", "größe 1%20.svs".encode(), b"caf\xe9.svs", b"caf\xe9%E9.svs", b"file:a.svs", b"\xff\xfe"]
)
@pytest.mark.parametrize("folder", ["", "/data/", "../b/"])
def test_paths_come_back_from_text(name: bytes, folder: str) -> None:
    path = Path(folder + os.fsdecode(name))
    text = path_to_text(path)
    assert path_from_text(text) == path
    text.encode()
    printable(str(path)).encode()


def test_repr_is_short_and_escaped() -> None:
    made = prediction(
        label="<b>", slide="/a/<script>\udce9.svs", probabilities={"<b>": 0.7, **{str(i): 0.0 for i in range(999)}}
    )
    assert repr(made) == "SlidePrediction('<script>\\\\xe9.svs': '<b>' (0.700), 2 regions)"
    page = made._repr_html_()
    assert page is not None
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
    assert len(page) < 200_000
    page.encode()
    broken = replace(made, attention_map=AttentionMap(made.attention_map.frame, np.zeros((0, 0), np.float32)))
    assert broken._repr_html_() is None or isinstance(broken._repr_html_(), str)
