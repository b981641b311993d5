"""Manifests that mislead, splits of awkward cohorts, colour and fit at their limits, stores as sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.slides import ArraySlide, stained
from wsi_attn.data.appearance import appearance_distance, describe_appearance, fit_appearance
from wsi_attn.data.augment import ColourChange, Symmetry, random_colour, random_symmetry
from wsi_attn.data.bags import Bag, collate, make_bag, valid_cells
from wsi_attn.data.manifest import Row, read_manifest
from wsi_attn.data.sources import SlidePatches
from wsi_attn.data.splits import with_validation
from wsi_attn.errors import ManifestError
from wsi_attn.geometry import Mpp, Region
from wsi_attn.tissue.find import find_tissue


def manifest(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    for name in "abcd":
        (folder / f"{name}.png").touch()
    (folder / "m.csv").write_bytes(text.encode(encoding))
    return folder / "m.csv"


def test_missing_manifest_missing_column_and_no_table(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no manifest"):
        read_manifest(tmp_path / "m.csv")
    with pytest.raises(ManifestError, match=r"no column for the label.*found path, diagnosis"):
        read_manifest(manifest(tmp_path, "path,diagnosis\na.png,x\n"))
    with pytest.raises(ManifestError, match="no column for the path"):
        read_manifest(manifest(tmp_path, ""))
    with pytest.raises(ManifestError, match="UTF-8"):
        read_manifest(manifest(tmp_path, "path,label\na.png,größer\n", "latin-1"))
    (row,) = read_manifest(manifest(tmp_path, "path,diagnosis\na.png,x\n"), need_label=False)
    assert row.label == ""


@pytest.mark.parametrize("mpp", ["nan", "inf", "-1", "0.5;-1", '"0.5,0.5,0.5"'])
def test_pixel_size_that_is_no_size(mpp: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="row 3, column mpp"):
        read_manifest(manifest(tmp_path, f"path,label,mpp\na.png,x,0.5\nb.png,y,{mpp}\n"))


@pytest.mark.parametrize("mpp", ["0", "0.0", '"0.5,0"'])
def test_a_pixel_size_of_zero_is_missing(mpp: str, tmp_path: Path) -> None:
    (row,) = read_manifest(manifest(tmp_path, f"path,label,mpp\na.png,x,{mpp}\n"))
    assert row.mpp is None


@pytest.mark.parametrize(
    "rows",
    [
        ["a.png,x,p,train", "b.png,x,p,test"],
        ["a.png,x,p,", "b.png,x,p,train", "c.png,x,p,test"],
        ["a.png,x,p,", "b.png,x,p,test"],
        ["a.png,x,p,val", "b.png,x,q,train", "c.png,x,p,"],
        ["a.png,x,,train", "a.png,x,,val"],
    ],
)
def test_a_patient_in_two_splits_is_found_in_any_order(rows: list[str], tmp_path: Path) -> None:
    """Rows without a split count as training, here as in the split itself."""
    for order in (rows, rows[::-1]):
        with pytest.raises(ManifestError, match="belongs to one split"):
            read_manifest(manifest(tmp_path, "path,label,patient,split\n" + "\n".join(order) + "\n"))


def test_first_alias_wins_and_cells_are_trimmed(tmp_path: Path) -> None:
    (row,) = read_manifest(manifest(tmp_path, "filename, Path ,label,split\nb.png, a.png , x ,TRAIN\n"))
    assert (row.path.name, row.label, row.split) == ("a.png", "x", "train")


def cohort(labels: str) -> list[Row]:
    """One row a patient, or two of a patient where a letter is upper case."""
    rows = []
    for patient, label in enumerate(labels):
        for image in range(2 if label.isupper() else 1):
            path = Path(f"{patient}_{image}.png")
            rows.append(Row(path, label.lower(), f"p{patient}", "", None, len(rows) + 2))
    return rows


@given(st.text("abAB", min_size=2, max_size=30), st.floats(0.05, 0.6), st.integers(0, 1000))
def test_any_cohort_is_split_by_patient_and_label(labels: str, share: float, seed: int) -> None:
    rows = cohort(labels)
    split = with_validation(rows, share, seed)
    assert [row.path for row in split] == [row.path for row in rows]
    assert {row.split for row in split} <= {"train", "val"}
    held = {row.patient for row in split if row.split == "val"}
    assert held.isdisjoint(row.patient for row in split if row.split == "train")
    for label in set(labels.lower()):
        patients = {row.patient for row in rows if row.label == label}
        wanted = min(len(patients) - 1, max(1, round(share * len(patients))))
        assert len(patients & held) == wanted
    assert with_validation(rows[::-1], share, seed)[::-1] == split


def test_test_patients_stay_out_of_the_draw() -> None:
    rows = [Row(Path(f"{i}.png"), "ab"[i % 2], f"p{i}", "test" if i < 6 else "", None, i + 2) for i in range(20)]
    split = with_validation(rows, 0.3, 0)
    assert [row.split for row in split[:6]] == ["test"] * 6
    assert sum(row.split == "val" for row in split) == 4


symmetries = st.builds(Symmetry, st.booleans(), st.booleans(), st.booleans())


@given(symmetries, st.integers(1, 90), st.integers(1, 70), st.data())
def test_corners_come_from_where_the_transformed_image_shows_them(
    symmetry: Symmetry, width: int, height: int, data: st.DataObject
) -> None:
    """An image of its own coordinates: no crop is needed to see where a square came from."""
    size = data.draw(st.integers(1, min(width, height)))
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    seen = symmetry.apply(np.stack([x, y, x], axis=-1))
    assert symmetry.extent((width, height)) == (seen.shape[1], seen.shape[0])
    left = data.draw(st.integers(0, seen.shape[1] - size))
    top = data.draw(st.integers(0, seen.shape[0] - size))
    square = seen[top : top + size, left : left + size]
    corner = symmetry.source_xy(np.array([[left, top]]), size, (width, height))
    assert corner.tolist() == [[int(square[..., 0].min()), int(square[..., 1].min())]]


def test_all_eight_symmetries_are_drawn_and_differ() -> None:
    rng = np.random.default_rng(0)
    drawn = {random_symmetry(rng) for _ in range(200)}
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert len(drawn) == 8
    assert len({symmetry.apply(pixels).tobytes() for symmetry in drawn}) == 8


@given(st.integers(0, 1000), st.floats(0, 2))
def test_colour_change_equals_its_definition(seed: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    change = random_colour(rng, strength)
    wanted = 255 - ((255.0 - pixels) @ change.matrix.T.astype(np.float64) - change.offset)
    assert np.abs(change.apply(pixels) - np.clip(wanted, 0, 255)).max() <= 1


def test_colour_of_nothing_is_nothing() -> None:
    change = ColourChange(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    assert change.apply(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, 8, 8, 3)


def test_augmented_bag_keeps_view_tissue_and_patches_together() -> None:
    pixels = stained(160, 96)
    bag = make_bag(SlidePatches(ArraySlide(pixels), 0.5, 1, workers=1), "otsu")
    for seed in range(8):
        seen = bag.augmented(np.random.default_rng(seed), 0.0)
        assert seen.view.shape[:2] == seen.tissue.shape == seen.extent[::-1]
        assert seen.tissue.sum() == bag.tissue.sum()
        patch, readable = seen.source.read_patches(np.array([[30, 20]]), 24)
        assert readable.all()
        assert np.array_equal(patch[0], seen.view[20:44, 30:54])


@given(st.integers(0, 1000), st.floats(0, 0.9), st.sampled_from([1, 4]))
def test_cut_bag_is_a_window_of_the_whole(seed: int, most: float, factor: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (66, 97, 3), dtype=np.uint8)
    bag = make_bag(SlidePatches(ArraySlide(pixels), None, factor, workers=1), "none", prior="tissue")
    seen = bag.random_crop(np.random.default_rng(seed), most, factor)
    columns, rows = (-(-extent // factor) for extent in seen.extent)
    assert seen.view.shape == (rows, columns, 3)
    assert seen.tissue.shape == (rows, columns)
    assert seen.weights is not None
    assert seen.weights.shape == (rows, columns)
    for whole, part in zip(bag.extent, seen.extent, strict=True):
        assert 1 <= part <= whole
        assert part >= whole * (1 - most) - factor
    size = min(8, *seen.extent)
    patch, readable = seen.source.read_patches(np.array([[0, 0]]), size)
    assert readable.all()
    if factor == 1:
        assert np.array_equal(patch[0], seen.view[:size, :size])
    assert seen.augmented(np.random.default_rng(seed), 0.0).extent in (seen.extent, seen.extent[::-1])


def test_a_cut_leaves_tissue() -> None:
    view, tissue = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.bool_)
    tissue[:10, :10] = True
    bag = Bag(view, tissue, (40, 40), SlidePatches(ArraySlide(view), None, 1, workers=1))
    cuts = [bag.random_crop(np.random.default_rng(seed), 0.9, 1) for seed in range(50)]
    assert all(cut.tissue.any() for cut in cuts)
    assert len({cut.extent for cut in cuts}) > 2


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([4, 8, 16]), st.floats(0, 1), st.integers(0, 99))
def test_valid_cells_equal_their_definition(rows: int, columns: int, stride: int, share: float, seed: int) -> None:
    tissue = np.random.default_rng(seed).random((rows, columns)) < share * 0.3
    means = np.array(
        [
            [tissue[top : top + stride, left : left + stride].mean() for left in range(0, columns, stride)]
            for top in range(0, rows, stride)
        ]
    )
    wanted = means >= 0.1 if (means >= 0.1).any() else means > 0
    assert np.array_equal(valid_cells(tissue, stride), wanted)


def test_tissue_of_a_bag_is_that_of_its_slide_at_every_resolution() -> None:
    slide = ArraySlide(stained(603, 401))
    found = find_tissue(slide)
    for mpp, coarse_factor in ((0.5, 1), (0.5, 4), (1.0, 8)):
        bag = make_bag(SlidePatches(slide, mpp, coarse_factor, workers=1), "otsu")
        assert bag.tissue.shape == bag.view.shape[:2]
        assert bag.tissue.mean() == pytest.approx(found.fraction, abs=0.02)
        assert bag.fraction == found.fraction


def test_damage_of_the_view_is_no_tissue() -> None:
    slide = ArraySlide(stained(512, 512), broken_regions=[(0, Region(200, 200, 40, 40))])
    for method in ("none", "otsu"):
        bag = make_bag(SlidePatches(slide, 0.5, 4, workers=1), method)
        assert not bag.tissue[50:60, 50:60].any()
        assert bag.tissue.any()
        assert bag.unreadable


def test_damaged_patch_is_marked_and_the_others_are_read() -> None:
    slide = ArraySlide(stained(256, 256), broken_regions=[(0, Region(100, 100, 5, 5))])
    for workers in (1, 3):
        patches, readable = SlidePatches(slide, 0.5, 4, workers=workers).read_patches(
            np.array([[0, 0], [90, 90], [150, 20]]), 32
        )
        assert readable.tolist() == [True, False, True]
        assert np.array_equal(patches[2], slide.arrays[0][20:52, 150:182])


def test_slide_a_little_coarser_is_interpolated_and_patches_may_leave_it() -> None:
    patches = SlidePatches(ArraySlide(np.full((90, 120, 3), 77, np.uint8), mpp=Mpp(0.6, 0.6)), 0.5, 4, workers=1)
    assert patches.extent == (144, 108)
    found, readable = patches.read_patches(np.array([[10, 10], [130, 100]]), 32)
    assert readable.all()
    assert (found[0] == 77).all()
    assert (found[1][-10:, -10:] == 255).all()


def test_rescaled_source_shows_everything_larger() -> None:
    patches = SlidePatches(ArraySlide(np.kron(stained(50, 40), np.ones((4, 4, 1), np.uint8))), 1.0, 4, workers=1)
    larger = patches.rescaled(2.0)
    assert (patches.extent, larger.extent) == ((100, 80), (200, 160))
    small, _ = patches.read_patches(np.array([[20, 20]]), 16)
    large, _ = larger.read_patches(np.array([[40, 40]]), 32)
    assert np.array_equal(large[0, ::2, ::2], small[0])


def test_no_bag_is_padded_where_all_are_of_one_size() -> None:
    made = [make_bag(SlidePatches(ArraySlide(stained(64, 48, seed)), None, 2, workers=1), "none") for seed in (0, 1)]
    assert collate(made, 4).coarse_size is None
    made.append(make_bag(SlidePatches(ArraySlide(stained(30, 80)), None, 2, workers=1), "none"))
    assert collate(made, 4).coarse_size.tolist() == [[32, 24], [32, 24], [15, 40]]


def coloured(red: float, green: float, blue: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 12, (60, 80, 3))
    return (np.array([red, green, blue]) + noise).clip(0, 255).astype(np.uint8)


def test_nearly_all_of_training_lies_within_and_other_dyes_without() -> None:
    rng = np.random.default_rng(0)
    everything = np.ones((60, 80), np.bool_)
    training = [
        describe_appearance(coloured(*(np.array([205, 130, 185]) + rng.normal(0, 10, 3)), seed), everything)
        for seed in range(100)
    ]
    appearance = fit_appearance(training)
    inside = [appearance_distance(sample, appearance) <= 1 for sample in training]
    assert np.mean(inside) >= 0.98
    for other in [(60, 80, 190), (70, 170, 80), (5, 5, 5), (252, 252, 252)]:
        assert appearance_distance(describe_appearance(coloured(*other, 0), everything), appearance) > 1.5


def test_fit_to_inputs_that_are_all_alike_still_accepts_them() -> None:
    everything = np.ones((60, 80), np.bool_)
    one = describe_appearance(coloured(200, 120, 180, 0), everything)
    for training in ([one], [one, one, one]):
        appearance = fit_appearance(training)
        assert appearance_distance(one, appearance) == pytest.approx(0)
        assert appearance_distance(one + 0.02, appearance) < 1
        assert appearance_distance(one + 1, appearance) > 1


def test_appearance_looks_at_tissue_only_and_at_a_sample_of_large_views() -> None:
    view = np.full((3000, 3000, 3), 250, np.uint8)
    tissue = np.zeros((3000, 3000), np.bool_)
    view[500:2500, 500:2500] = (200, 120, 180)
    tissue[500:2500, 500:2500] = True
    small = describe_appearance(view[::10, ::10], tissue[::10, ::10])
    assert describe_appearance(view, tissue) == pytest.approx(small, abs=1e-6)
    assert describe_appearance(view, np.zeros_like(tissue)) != pytest.approx(small, abs=0.1)
