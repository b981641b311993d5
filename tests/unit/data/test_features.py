"""Files of features in the layouts of other tools, and the line about each that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from wsi_attn.data.features import FeatureSlide, feature_slide
from wsi_attn.data.manifest import read_manifest
from wsi_attn.data.sources import open_row, open_source
from wsi_attn.errors import FeatureError, SlideNotFoundError, SlideUnsupportedError
from wsi_attn.geometry import Mpp

VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)
COORDS = np.array([[0, 0], [512, 0], [1024, 0], [0, 512]])


def write_h5(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, object] | None = None,
    of_file: Mapping[str, object] | None = None,
) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        if "coords" in file:
            file["coords"].attrs.update(attributes or {})
        file.attrs.update(of_file or {})
    return path


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "trident": lambda folder: write_h5(
        folder / "a.h5",
        {"features": VALUES, "coords": COORDS},
        {"patch_size": 256, "patch_size_level0": 512, "level0_width": 4096, "level0_height": 2048},
    ),
    "clam": lambda folder: write_h5(folder / "a.h5", {"features": VALUES, "coords": COORDS.astype(np.int32)}),
    "clam-coords": lambda folder: write_h5(
        folder / "a.h5", {"features": VALUES[None], "coords": COORDS}, {"patch_size": 256, "downsample": (2.0, 2.0)}
    ),
    "atlas": lambda folder: write_h5(
        folder / "a.h5",
        {"features/uni": VALUES, "coords": np.hstack([COORDS, np.full((4, 3), 512)])},
        of_file={"patch_size": 256, "patch_size_level0": 512},
    ),
    "stamp": lambda folder: write_h5(
        folder / "a.h5",
        {"feats": VALUES.astype(np.float16), "coords": COORDS * 0.5},
        of_file={"unit": "um", "tile_size_um": 256.0, "tile_size_px": 224},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_other_tools(layout: str, tmp_path: Path) -> None:
    slide = FeatureSlide([LAYOUTS[layout](tmp_path)], Mpp(0.5, 0.5))
    values = slide.read(3)
    assert values.dtype == (np.float16 if layout == "stamp" else np.float32)
    assert np.array_equal(values, VALUES)
    assert slide.regions.tolist() == [[x, y, 512, 512] for x, y in COORDS.tolist()]
    assert slide.info.size0 == ((4096, 2048) if layout == "trident" else (1536, 1024))
    assert bool(slide.info.notes) == (layout == "clam")


def test_coordinates_in_um_without_a_pixel_size_stay_in_um(tmp_path: Path) -> None:
    slide = FeatureSlide([LAYOUTS["stamp"](tmp_path)])
    assert slide.regions[1].tolist() == [256, 0, 256, 256]
    assert "µm" in slide.info.notes[0]


def test_arrays_without_coordinates(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    np.savez(tmp_path / "a.npz", features=VALUES)
    torch.save(torch.from_numpy(VALUES).bfloat16(), tmp_path / "a.pt")
    for suffix in ("npy", "npz", "pt"):
        slide = feature_slide(open_source(tmp_path / f"a.{suffix}"))
        assert np.array_equal(slide.read(), VALUES)
        assert slide.regions.tolist() == [[n, 0, 1, 1] for n in range(4)]
        assert slide.info.size0 == (4, 1)
        assert "no coordinates" in slide.info.notes[0]


def test_slides_of_a_patient_lie_side_by_side(tmp_path: Path) -> None:
    path = LAYOUTS["clam"](tmp_path)
    np.savez(tmp_path / "b.npz", feats=VALUES.astype(np.float16), coords=COORDS)
    slide = FeatureSlide([path, tmp_path / "b.npz"])
    assert slide.info.size0 == (3072, 1024)
    assert slide.regions[4].tolist() == [1536, 0, 512, 512]
    assert np.array_equal(slide.read(), np.concatenate([VALUES, VALUES]))
    assert slide.info.fingerprint != FeatureSlide([path]).info.fingerprint


def saved(values: np.ndarray, coords: np.ndarray | None = None) -> Callable[[Path], object]:
    arrays = {"features": values} if coords is None else {"features": values, "coords": coords}
    return lambda path: write_h5(path, arrays)


def with_value(value: float) -> np.ndarray:
    values = VALUES.copy()
    values[2, 1] = value
    return values


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (saved(with_value(np.nan)), "tile 2 has a feature that is NaN or infinite"),
        (saved(with_value(np.inf)), "tile 2 has a feature that is NaN or infinite"),
        (saved(VALUES[0]), "not numbers (N, D)"),
        (saved(VALUES[:0]), "contains no tiles"),
        (saved(VALUES, COORDS[:3]), "its coordinates are (3, 2), but 4 tiles need (4, 2)"),
        (saved(VALUES, COORDS[:, [0, 1, 1]]), "its coordinates are (4, 3), but 4 tiles need (4, 2)"),
        (saved(VALUES, COORDS - 1), "a coordinate is not a number from 0 to"),
        (
            lambda path: write_h5(
                path, {"features": VALUES, "coords": COORDS}, {"level0_width": 600, "level0_height": 600}
            ),
            "a tile lies outside the slide of 600 x 600 px",
        ),
        (lambda path: write_h5(path, {"other": VALUES}), "it has no array features or feats; found other"),
        (
            lambda path: write_h5(path, {"features/a": VALUES, "features/b": VALUES}),
            "it has features of 2 encoders: a, b",
        ),
        (lambda path: path.write_bytes(b"not hdf5"), "file signature not found"),
    ],
)
def test_what_cannot_be_used_is_said_with_row_and_file(
    write: Callable[[Path], object], problem: str, tmp_path: Path
) -> None:
    write(tmp_path / "bad.h5")
    (tmp_path / "m.csv").write_text("path,label\nbad.h5,a\n")
    (row,) = read_manifest(tmp_path / "m.csv")
    with pytest.raises(FeatureError) as caught:
        feature_slide(open_row(row)).read()
    text = str(caught.value)
    assert text.startswith(f"row 2: Cannot use the features of {tmp_path / 'bad.h5'}: ")
    assert problem in text
    assert "\n" not in text


def test_another_width_is_refused(tmp_path: Path) -> None:
    path = LAYOUTS["clam"](tmp_path)
    with pytest.raises(FeatureError, match="has 3 features a tile, but the model reads 4"):
        FeatureSlide([path]).read(4)
    np.save(tmp_path / "b.npy", VALUES[:, :2])
    with pytest.raises(FeatureError, match=r"b\.npy: has 2 features a tile, but a\.h5 has 3"):
        FeatureSlide([path, tmp_path / "b.npy"])


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save({"features": Path("x")}, tmp_path / "a.pt")
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    for suffix in ("pt", "npy"):
        with pytest.raises(FeatureError):
            FeatureSlide([tmp_path / f"a.{suffix}"])


def test_features_have_no_pixels(tmp_path: Path) -> None:
    with pytest.raises(SlideNotFoundError):
        FeatureSlide([tmp_path / "none.h5"])
    with pytest.raises(SlideUnsupportedError, match="contains features of tiles"):
        open_source(LAYOUTS["clam"](tmp_path)).read_region((0, 0), 0, (8, 8))


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".npy", ".pt"])
def test_damaged_files_are_refused_with_one_line(suffix: str, tmp_path: Path) -> None:
    """Libraries raise errors of many types, such as `BadZipFile`, `zlib.error` and `TokenError`."""
    path = tmp_path / f"a{suffix}"
    if suffix == ".h5":
        write_h5(path, {"features": VALUES, "coords": COORDS})
    elif suffix == ".npz":
        np.savez_compressed(path, features=VALUES, coords=COORDS)
    elif suffix == ".npy":
        np.save(path, VALUES)
    else:
        torch.save({"features": torch.from_numpy(VALUES)}, path)
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    said = []
    for attempt in range(60):
        damaged = bytearray(whole)
        if attempt % 2:
            damaged = damaged[: generator.integers(len(damaged))]
        else:
            for place in generator.integers(0, len(damaged), 8):
                damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            FeatureSlide([path]).read()
        except FeatureError as error:
            said.append(str(error))
    assert len(said) >= 30  # every file that is cut off
    assert not [line for line in said if "\n" in line or line.endswith(": ")]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(FeatureError, match="not a file"):
        FeatureSlide([tmp_path / "a.npy"])
