"""Manifests, splits, augmentation, bags and fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.slides import ArraySlide, stained
from wsi_attn.data.appearance import appearance_distance, describe_appearance, fit_appearance
from wsi_attn.data.augment import AugmentedPatches, Symmetry, random_colour
from wsi_attn.data.bags import collate, make_bag, valid_cells
from wsi_attn.data.manifest import read_manifest
from wsi_attn.data.sources import SlidePatches
from wsi_attn.data.splits import with_validation
from wsi_attn.errors import ManifestError, MissingMppError, ModelMismatchError
from wsi_attn.geometry import Mpp


def manifest(folder: Path, text: str) -> Path:
    for name in "abcdefgh":
        (folder / f"{name}.png").touch()
    (folder / "m.csv").write_text(text, encoding="utf-8")
    return folder / "m.csv"


@pytest.mark.parametrize(
    "header", ["path,label,patient", "FILENAME,target,PATIENT", "slide_id,label,case_id", "wsi,label,group"]
)
def test_column_names_of_the_field(header: str, tmp_path: Path) -> None:
    (row,) = read_manifest(manifest(tmp_path, f"\ufeff{header}\na.png,x,p\n"))
    assert (row.path, row.label, row.patient, row.split, row.number) == (tmp_path / "a.png", "x", "p", "", 2)


def test_pixel_size_of_a_row(tmp_path: Path) -> None:
    rows = read_manifest(manifest(tmp_path, 'path,label,mpp\na.png,x,0.5\nb.png,x,"0.5,0.6"\nc.png,x,\n'))
    assert [row.mpp for row in rows] == [(0.5, 0.5), (0.5, 0.6), None]
    assert rows[0].patient == "a.png"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("z.png,x,,,", "row 2: file not found"),
        ("a.png,,,,", "row 2: the label is empty"),
        ("a.png,x,,holdout,", "row 2: split 'holdout'"),
        ("a.png,x,,,fine", "row 2, column mpp: 'fine'"),
        ("a.png,x,,,-1", "row 2, column mpp: '-1'"),
        ("a.png,x,p,train,\nb.png,x,p,test,", r"row 2\) and in test \(row 3\)"),
        ("", "no rows"),
    ],
)
def test_errors_name_the_row(body: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=said):
        read_manifest(manifest(tmp_path, f"path,label,patient,split,mpp\n{body}\n"))


def test_validation_is_carved_by_patient_and_label(tmp_path: Path) -> None:
    lines = [f"{'abcdefgh'[i % 8]}.png,{'xy'[i % 2]},p{i // 2 * 2 + i % 2}" for i in range(40)]
    rows = read_manifest(manifest(tmp_path, "path,label,patient\n" + "\n".join(lines) + "\n"))
    split = with_validation(rows, 0.25, seed=3)
    assert split == with_validation(rows, 0.25, seed=3)
    assert split != with_validation(rows, 0.25, seed=4)
    parts = {part: {row.patient for row in split if row.split == part} for part in ("train", "val")}
    assert not parts["train"] & parts["val"]
    assert {label: sum(row.split == "val" for row in split if row.label == label) for label in "xy"} == {"x": 5, "y": 5}
    assert with_validation(split, 0.9, seed=0) == split


symmetries = st.builds(Symmetry, st.booleans(), st.booleans(), st.booleans())


@given(symmetries, st.data())
def test_symmetry_of_patches_is_that_of_the_image(symmetry: Symmetry, data: st.DataObject) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    source = SlidePatches(ArraySlide(pixels, mpp=None), None, 1, workers=1)
    seen = AugmentedPatches(source, source.extent, symmetry, None)
    whole = symmetry.apply(pixels)
    assert seen.extent == (whole.shape[1], whole.shape[0])
    x, y = data.draw(st.integers(0, seen.extent[0] - 8)), data.draw(st.integers(0, seen.extent[1] - 8))
    patches, readable = seen.read_patches(np.array([[x, y]]), 8)
    assert readable.all()
    assert np.array_equal(patches[0], whole[y : y + 8, x : x + 8])


def test_no_strength_changes_no_colour() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    assert np.array_equal(random_colour(np.random.default_rng(0), 0.0).apply(pixels), pixels)


def test_cells_need_a_tenth_of_tissue() -> None:
    tissue = np.zeros((20, 33), np.bool_)
    tissue[0, 0] = True
    assert valid_cells(tissue, 16).tolist() == [[True, False, False], [False, False, False]]
    tissue[:2, 16:32] = True
    tissue[16:, 32] = True
    assert valid_cells(tissue, 16).tolist() == [[False, True, False], [False, False, True]]


def test_appearance_accepts_its_own_kind_and_refuses_others() -> None:
    views = [stained(200, 150, seed) for seed in range(20)]
    everything = np.ones((150, 200), np.bool_)
    appearance = fit_appearance([describe_appearance(view, everything) for view in views])
    assert appearance_distance(describe_appearance(stained(200, 150, 99), everything), appearance) < 1
    for colour in [(0, 0, 0), (20, 40, 200), (30, 160, 60), (128, 128, 128)]:
        other = np.full((150, 200, 3), colour, np.uint8)
        assert appearance_distance(describe_appearance(other, everything), appearance) > 1


def test_pixel_size_decides_what_is_read() -> None:
    pixels = stained(400, 200)
    patches = SlidePatches(ArraySlide(pixels, mpp=Mpp(0.25, 0.5)), 0.5, 4)
    assert patches.extent == (200, 200)
    found, _ = patches.read_patches(np.array([[10, 10]]), 20)
    wanted = pixels[10:30, 20:60].reshape(20, 20, 2, 3).mean(axis=2)
    assert np.abs(found[0] - wanted).max() <= 1
    assert patches.coarse_view().pixels.shape == (50, 50, 3)


def test_pixel_size_is_asked_for_and_checked() -> None:
    with pytest.raises(MissingMppError):
        SlidePatches(ArraySlide(stained(64, 64), mpp=None), 0.5, 4)
    with pytest.raises(ModelMismatchError):
        SlidePatches(ArraySlide(stained(64, 64), mpp=Mpp(1, 1)), 0.5, 4)


def test_batch_is_padded_with_cells_that_are_not_valid() -> None:
    bags = [
        make_bag(SlidePatches(ArraySlide(stained(w, h), mpp=None), None, 2), "none") for w, h in [(64, 96), (128, 32)]
    ]
    batch = collate(bags, 8)
    assert tuple(batch.coarse.shape) == (2, 3, 48, 64)
    assert batch.valid.sum(dim=(1, 2)).tolist() == [6 * 4, 2 * 8]
    assert batch.extent.tolist() == [[64, 96], [128, 32]]
