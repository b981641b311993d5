"""`tile` and `verify` as a user runs them: codecs, grids, kills, damage, many slides."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
import zarr

from tests.cli.runner import restore_interrupts, wsi_attn


def tree(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_passthrough_is_what_openslide_shows_and_verifies(demo_slide: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    (record,) = wsi_attn("tile", demo_slide, "-o", store, "--codec", "passthrough", "--json").json()
    assert [pixels["origin"] for pixels in record["pixels"]] == ["passthrough", "halved", "halved"]
    stored = zarr.open_group(store, mode="r")["0"][...].transpose(1, 2, 0)
    with openslide.OpenSlide(demo_slide) as slide:
        shown = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    np.testing.assert_array_equal(stored, shown)
    (verdict,) = wsi_attn("verify", store, "--json").json()
    assert (verdict["state"], verdict["problems"]) == ("sound", [])
    assert verdict["chunks"] >= 130


def test_every_score_is_there_and_explains_itself(demo_slide: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    wsi_attn("tile", demo_slide, "-o", store)
    scores = zarr.open_group(store, mode="r")["tiles/default/scores"]
    assert set(scores) >= {"tissue", "focus", "entropy", "optical_density", "haematoxylin", "eosin", "pen", "fold"}
    for name in scores:
        values = scores[name][...]
        assert np.isfinite(values).all(), name
        assert scores[name].attrs["description"]
        low, high = scores[name].attrs["range"]
        assert low is None or (values >= low - 1e-6).all(), name
        assert high is None or (values <= high + 1e-6).all(), name
    assert (scores["pen"][...] < 0.05).all()


def test_scores_asked_for(demo_slide: Path, tmp_path: Path) -> None:
    wsi_attn("tile", demo_slide, "-o", tmp_path / "none.zarr", "--scores", "none")
    wsi_attn("tile", demo_slide, "-o", tmp_path / "two.zarr", "--scores", "entropy,tissue")
    assert list(zarr.open_group(tmp_path / "none.zarr", mode="r")["tiles/default/scores"]) == []
    assert set(zarr.open_group(tmp_path / "two.zarr", mode="r")["tiles/default/scores"]) == {"tissue", "entropy"}
    error = wsi_attn("tile", demo_slide, "-o", tmp_path / "x.zarr", "--scores", "focuss", code=2).error()
    assert "focus" in error


def test_passthrough_refuses_and_auto_says_why(demo_slide: Path, tmp_path: Path) -> None:
    arguments = ("tile", demo_slide, "--mpp", "0.8", "-o", tmp_path / "s.zarr")
    error = wsi_attn(*arguments, "--codec", "passthrough", code=3).error()
    assert "no level of the slide has 0.8" in error
    assert not (tmp_path / "s.zarr").exists()
    told = wsi_attn(*arguments)
    assert "recompressed as zstd, not copied: no level of the slide has 0.8" in told.stderr


def test_grids_are_added_and_others_refused(demo_slide: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    wsi_attn("tile", demo_slide, "-o", store, "--codec", "passthrough")
    before = tree(store)
    assert "skipped" in wsi_attn("tile", demo_slide, "-o", store, "--codec", "passthrough").stdout
    error = wsi_attn("tile", demo_slide, "-o", store, "--codec", "passthrough", "--tile-size", "512", code=3).error()
    assert "tile_size 256 instead of 512" in error
    assert "--grid NAME" in error
    (record,) = wsi_attn("tile", demo_slide, "-o", store, "--grid", "ten", "--mpp", "1", "--json").json()
    assert (record["state"], record["mpp"]) == ("added", pytest.approx([1.0, 1.0]))
    error = wsi_attn("tile", demo_slide, "-o", store, "--grid", "other", "--codec", "zstd", code=3).error()
    assert "codec passthrough instead of zstd" in error
    assert "added" in wsi_attn("tile", store, "-o", store, "--grid", "late", "--tile-size", "512").stdout
    after = tree(store)
    del before["zarr.json"]  # it records the files of the new grids
    assert {name: after[name] for name in before} == before
    assert "sound" in wsi_attn("verify", store).stdout
    assert zarr.open_group(store, mode="r")["tiles/ten/coords"].attrs["tile_extent0"][0] == pytest.approx(256 / 0.499)


@pytest.mark.slow
def test_killed_at_random_moments_ends_the_same(demo_slide: Path, tmp_path: Path) -> None:
    wsi_attn("tile", demo_slide, "-o", tmp_path / "whole" / "s.zarr", "--codec", "zstd")
    whole = tree(tmp_path / "whole")
    output, rng = tmp_path / "killed" / "s.zarr", random.Random(0)
    command = [sys.executable, "-m", "wsi_attn", "tile", demo_slide, "-o", output, "--codec", "zstd", "--quiet"]
    for _ in range(6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.2, 1.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
    wsi_attn("tile", demo_slide, "-o", output, "--codec", "zstd")
    left = {name: data for name, data in tree(tmp_path / "killed").items() if not name.endswith(".lock")}
    assert left == whole


def test_a_disk_that_takes_no_more(demo_slide: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: writing fails half way through a shard."""
    output = tmp_path / "s.zarr"
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000));"
        "from wsi_attn.cli.app import run; sys.exit(run(sys.argv[1:]))"
    )
    arguments = ["tile", str(demo_slide), "-o", str(output), "--scores", "none"]
    done = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    state, line = done.stderr.splitlines()
    assert "cmu1_small_region.svs: failed in" in state
    assert "cmu1_small_region.svs" in line
    assert "rerun the command to resume" in line
    assert not list(output.rglob("*.tmp"))
    assert "unfinished" in wsi_attn("verify", output, code=3).error()
    assert "resumed" in wsi_attn(*arguments).stdout
    assert "sound" in wsi_attn("verify", output).stdout


def test_interrupted_says_so_and_is_no_store(demo_slide: Path, tmp_path: Path) -> None:
    for attempt in range(10):  # a busy machine may see the folder too late
        output = tmp_path / f"{attempt}.zarr"
        options = ["-o", output, "--codec", "zstd", "--workers", "1"]
        command = [sys.executable, "-m", "wsi_attn", "tile", demo_slide, *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=restore_interrupts)
        while not output.exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
        if process.returncode:
            break
    assert (said, process.returncode) == ("wsi-attn: interrupted\n", 130)
    assert wsi_attn("verify", output, code=3).error().endswith("is unfinished; `wsi-attn tile` resumes it")


def test_two_writers(demo_slide: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wsi_attn", "tile", demo_slide, "-o", tmp_path / "s.zarr"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    results = [process.communicate() for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes in ([0, 3], [0, 0]), results  # the second may come when the first has gone
    if codes == [0, 3]:
        assert any("Another process is writing" in told for _, told in results)
    assert "sound" in wsi_attn("verify", tmp_path / "s.zarr").stdout


def test_many_slides_go_on_after_a_bad_one(demo_slide: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"no slide")
    second = shutil.copy(demo_slide, tmp_path / "second.svs")
    stdin = f"{demo_slide}\n{bad}\n{second}\n"
    result = wsi_attn("tile", "-", "-o", tmp_path / "out", "--scores", "none", "--json", stdin=stdin, code=4)
    assert [record["state"] for record in result.json()] == ["written", "written"]
    assert str(bad) in result.error()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cmu1_small_region.zarr", "second.zarr"]


def test_tissue_corrected_by_hand(demo_slide: Path, tmp_path: Path) -> None:
    wsi_attn("tissue", demo_slide, "-o", tmp_path / "found")
    square = {"type": "Polygon", "coordinates": [[[512, 512], [1024, 512], [1024, 1024], [512, 1024], [512, 512]]]}
    (tmp_path / "drawn").mkdir()
    file = tmp_path / "drawn" / "cmu1_small_region.geojson"
    file.write_text(json.dumps({"type": "Feature", "geometry": square, "properties": {"objectType": "annotation"}}))
    arguments = ("tile", demo_slide, "--scores", "none", "--json", "-o")
    (whole,) = wsi_attn(*arguments, tmp_path / "a.zarr").json()
    (same,) = wsi_attn(*arguments, tmp_path / "b.zarr", "--tissue", tmp_path / "found").json()
    (drawn,) = wsi_attn(*arguments, tmp_path / "c.zarr", "--tissue", file).json()
    (again,) = wsi_attn(*arguments, tmp_path / "c.zarr", "--tissue", tmp_path / "drawn").json()
    assert same["tiles"] == pytest.approx(whole["tiles"], abs=3)
    assert same["tissue_fraction"] == pytest.approx(whole["tissue_fraction"], abs=0.02)
    assert (drawn["tiles"], again["state"]) == (4, "skipped")
    file.write_text(file.read_text().replace("1024", "900"))
    assert "tissue" in wsi_attn(*arguments, tmp_path / "c.zarr", "--tissue", file, code=3).error()
    assert "no such.geojson" in wsi_attn(*arguments, tmp_path / "d.zarr", "--tissue", "no such.geojson", code=3).error()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "contains neither cmu1" in wsi_attn(*arguments, tmp_path / "e.zarr", "--tissue", empty, code=3).error()


@pytest.mark.slow
def test_verify_finds_every_kind_of_damage(demo_slide: Path, tmp_path: Path) -> None:
    wsi_attn("tile", demo_slide, "-o", tmp_path / "s.zarr", "--codec", "passthrough")
    shard = Path("0") / "c" / "0" / "0" / "0"

    def damaged(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "s.zarr", tmp_path / name))

    flipped = damaged("flipped.zarr")
    data = bytearray((flipped / shard).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (flipped / shard).write_bytes(data)
    assert "checksum differs" in wsi_attn("verify", flipped, "--fast", code=3).error()

    cut = damaged("cut.zarr")
    os.truncate(cut / shard, 1000)
    assert "1000 bytes instead of" in wsi_attn("verify", cut, code=3).error()

    gone = damaged("gone.zarr")
    (gone / shard).unlink()
    assert "No such file" in wsi_attn("verify", gone, code=3).error()

    foreign = damaged("foreign.zarr")
    (foreign / "0" / "c" / "0" / "7").mkdir()
    (foreign / "0" / "c" / "0" / "7" / "7").write_bytes(b"x")
    assert "does not belong" in wsi_attn("verify", foreign, code=3).error()

    scores = damaged("scores.zarr")
    file = scores / "tiles" / "default" / "scores" / "tissue" / "c" / "0"
    file.write_bytes(file.read_bytes()[:-3])
    assert "scores.zarr" in wsi_attn("verify", scores, code=3).error()

    result = wsi_attn("verify", tmp_path / "s.zarr", gone, tmp_path / "none.zarr", "--json", code=4)
    assert [record["state"] for record in result.json()] == ["sound", "damaged"]


@pytest.mark.slow
def test_every_real_slide_is_openslides_pixels(collection: Callable[[str], Path], tmp_path: Path) -> None:
    """All levels of all slides that OpenSlide reads, compared region by region."""
    seen = 0
    for path in sorted(collection("slides").rglob("*")):
        if not path.is_file() or openslide.OpenSlide.detect_format(str(path)) is None:
            continue
        if path.name == "orientation3.tif":  # OpenSlide ignores the orientation tag
            continue
        store = tmp_path / f"{path.name}.zarr"
        result = wsi_attn("tile", path, "-o", store, "--scores", "none", "--tissue", "none", "--json", code=None)
        if result.code:
            assert result.code == 3
            result.error()
            continue
        (record,) = result.json()
        seen += 1
        root = zarr.open_group(store, mode="r")
        with openslide.OpenSlide(path) as slide:
            for level, pixels in enumerate(record["pixels"][: slide.level_count]):
                # The half a grey value by which decoders of JPEG 2000 may differ; everything else is exact.
                tolerance = 1 if pixels["codec"] == "jpeg2000" else 0
                compare(root[str(level)], slide, level, tolerance)
        shutil.rmtree(store)
    assert seen >= 8


def compare(stored: zarr.Array, slide: openslide.OpenSlide, level: int, tolerance: int) -> None:
    width, height = slide.level_dimensions[level]
    assert stored.shape == (3, height, width)
    factor = slide.level_downsamples[level]
    for y in range(0, height, 2048):
        for x in range(0, width, 2048):
            size = min(2048, width - x), min(2048, height - y)
            rgba = np.asarray(slide.read_region((round(x * factor), round(y * factor)), level, size))
            shown = np.where(rgba[..., 3:] == 0, 255, rgba[..., :3]).astype(int)
            found = stored[:, y : y + size[1], x : x + size[0]].transpose(1, 2, 0)
            assert np.abs(found - shown).max() <= tolerance, (level, x, y)
