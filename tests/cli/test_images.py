"""Plain images: colour profiles, and files with several frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from tests.cli.runner import in_process

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


def profile(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_the_profile_of_a_plain_image_is_kept(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, store, copy = tmp_path / f"image{suffix}", tmp_path / "s.zarr", tmp_path / "copy.ome.tif"
    made = profile("sRGB")  # which holds the time
    Image.fromarray(PIXELS).save(image, icc_profile=made)
    (record,) = in_process(capsys, "info", image, "--json").json()
    assert record["icc_profile"]
    in_process(capsys, "tile", image, "-o", store, "--tissue", "none", "--scores", "none")
    in_process(capsys, "export", store, "--to", "ome-tiff", "--of", "slide", "-o", copy)
    with tifffile.TiffFile(copy) as tiff:
        assert tiff.pages[0].tags.valueof(34675) == made


def test_a_profile_of_other_colours_is_left_out_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "lab.png", icc_profile=profile("LAB"))
    found = in_process(capsys, "info", tmp_path / "lab.png", "--json")
    assert not found.json()[0]["icc_profile"]
    assert "Lab and not RGB" in found.stderr


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animations_are_refused(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [Image.fromarray(np.roll(PIXELS, shift, 0)) for shift in (0, 9, 18)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    assert "3 frames" in in_process(capsys, "info", tmp_path / f"a{suffix}", code=3).error()
