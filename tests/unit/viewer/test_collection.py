"""Which slides, predictions and polygons belong together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from wsi_attn.errors import PredictionError, SlideNotFoundError, UsageError
from wsi_attn.viewer.collection import Collection, Entry, collect, stem_of


def named(collection: Collection) -> dict[str, Entry]:
    return {entry.name: entry for entry in collection.entries.values()}


def test_a_folder(cohort: Path) -> None:
    found = named(collect([cohort]))
    assert list(found) == ["first.png", "second.png", "gone.svs"]
    assert found["first.png"].record.label == "dense"
    assert found["second.png"].record is None
    assert found["second.png"].polygons == (cohort / "second.geojson",)
    assert found["gone.svs"].path is None
    assert found["gone.svs"].record.label == "sparse"


def test_keys_tell_nothing_and_stay(cohort: Path) -> None:
    keys = list(collect([cohort]).entries)
    assert keys == list(collect([cohort]).entries)
    assert all(len(key) == 12 and key.isalnum() for key in keys)


def test_prediction_alone_finds_its_slide(cohort: Path) -> None:
    found = named(collect([cohort / "first.prediction.json"]))
    assert found["first.png"].path == cohort / "first.png"


def test_prediction_is_matched_by_stem(
    tmp_path: Path, image: Callable[..., Path], predicted: Callable[..., Path]
) -> None:
    slide = image("moved.png")
    prediction = predicted(tmp_path / "moved.prediction.json", "/elsewhere/moved.svs")
    found = named(collect([slide, prediction]))
    assert list(found) == ["moved.png"]
    assert found["moved.png"].prediction == prediction


def test_two_predictions_of_one_slide(
    tmp_path: Path, image: Callable[..., Path], predicted: Callable[..., Path]
) -> None:
    slide = image("a.png")
    one, two = (predicted(tmp_path / f"{name}.prediction.json", str(slide)) for name in ("one", "two"))
    entries = list(collect([slide, one, two]).entries.values())
    assert [entry.prediction for entry in entries] == [one, two]
    assert {entry.path for entry in entries} == {slide}


def test_polygons_of_any_name_go_to_the_only_slide(cohort: Path) -> None:
    (entry,) = collect([cohort / "first.png", cohort / "second.geojson"]).entries.values()
    assert entry.polygons == (cohort / "second.geojson",)


def test_bad_prediction_is_a_problem_and_the_rest_is_shown(cohort: Path) -> None:
    (cohort / "bad.prediction.json").write_text("{}")
    collection = collect([cohort])
    assert len(collection.entries) == 3
    assert [type(problem) for problem in collection.problems] == [PredictionError]
    with pytest.raises(PredictionError):
        collect([cohort / "bad.prediction.json"])


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        collect([tmp_path])
    with pytest.raises(SlideNotFoundError):
        collect([tmp_path / "none.svs"])


@pytest.mark.parametrize("name", ["a.b.svs", "a.b.zarr", "a.b.prediction.json", "a.b.ome.tif", "a.b.geojson"])
def test_stems(name: str) -> None:
    assert stem_of(Path(name)) == "a.b"
