"""`wsi-attn info`: what is said of each level, in text and in JSON, and one clear line for what cannot be read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.cli.runner import wsi_attn

KEYS = {
    "slide",
    "vendor",
    "reader",
    "width",
    "height",
    "mpp",
    "mpp_source",
    "mpp_note",
    "objective_power",
    "compression",
    "levels",
    "bounds",
    "associated",
    "icc_profile",
    "icc_profile_bytes",
    "fingerprint",
    "properties",
}


def test_levels_say_how_they_are_stored(demo_slide: Path) -> None:
    (record,) = wsi_attn("info", demo_slide, "--json").json()
    assert set(record) >= KEYS
    assert (record["vendor"], record["reader"], record["objective_power"]) == ("aperio", "tifffile", 20)
    assert record["levels"] == [
        {
            "width": 2220,
            "height": 2967,
            "downsample": [1, 1],
            "tile_size": [240, 240],
            "compression": "JPEG",
            "passthrough": True,
            "passthrough_reason": "",
        }
    ]
    assert (record["mpp_source"], record["icc_profile"], record["icc_profile_bytes"]) == ("file", False, 0)
    text = wsi_attn("info", demo_slide).stdout
    for said in (
        "level 0: 2220 x 2967",
        "240 x 240 JPEG, copied",
        "0.499 x 0.499",
        "20x",
        "label, macro",
        "fingerprint",
    ):
        assert said in text


def test_why_tiles_cannot_be_copied(collection: Callable[[str], Path]) -> None:
    names = ["generic_pyramid.tiff", "ndpi_dapi.ndpi", "dicom_sm_rgb.dcm", "untiled_10000x5000_grey.tif"]
    records = wsi_attn("info", "--json", *(collection(f"slides/{name}") for name in names)).json()
    assert [record["levels"][0]["passthrough"] for record in records] == [False] * 4
    reasons = [record["levels"][0]["passthrough_reason"] for record in records]
    for said, reason in zip(
        ["deflate, not JPEG", "3968 x 8 px are not tiles", "OpenSlide", "no tiles"], reasons, strict=True
    ):
        assert said in reason
    assert records[2]["icc_profile"]
    assert records[2]["icc_profile_bytes"] > 0


def test_one_cut_off_slide_costs_the_others_nothing(demo_slide: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.svs"
    shutil.copy(demo_slide, path)
    os.truncate(path, 1_000_000)
    result = wsi_attn("info", path, demo_slide, "--json", code=4)
    assert [record["slide"] for record in result.json()] == [str(demo_slide)]
    assert "cut.svs is truncated: it has 1000000 of at least" in result.error()
