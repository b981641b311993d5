"""Runs killed at any moment, resumed, end with the bytes of a run that was never killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.slides import ArraySlide, stained
from wsi_attn.errors import StoreIncompleteError
from wsi_attn.geometry import Region
from wsi_attn.store import sharding
from wsi_attn.store.schema import journal_of
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tiling.write import TileConfig, tile_slide

ROOT = Path(__file__).parents[3]
CONFIG = TileConfig(tile_size=32, overlap=0, workers=2)
SMALL_SHARDS = 3 * 128 * 128

# Kills itself by a signal it cannot catch, after so many calls of the function that is named.
VICTIM = """
import os, signal, sys
from pathlib import Path
import wsi_attn.outputs.files, wsi_attn.outputs.journal, wsi_attn.store.backend, wsi_attn.store.schema
from tests.unit.tiling import test_resume as case

owner, name, after, when = sys.argv[2:6]
target = {"files": wsi_attn.outputs.files, "slide": case.ArraySlide, "journal": wsi_attn.outputs.journal.Journal,
          "place": wsi_attn.store.backend.FolderBackend}[owner]
original, calls = getattr(target, name), []

def dying(*args, **options):
    calls.append(None)
    fatal = len(calls) == int(after)
    if fatal and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    if fatal and when == "torn":
        (Path(sys.argv[1]) / "0" / "c" / "0" / "0" / ".0.1234.tmp").write_bytes(b"half a shard")
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*args, **options)
    if fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(target, name, dying)
wsi_attn.store.schema.JOURNAL_PATIENCE = 0
case.sharding.SHARD_BYTES = case.SMALL_SHARDS
case.tile_slide(case.make_slide(), Path(sys.argv[1]), case.CONFIG)
"""


def make_slide():
    """Two levels of several shards, damage in the first."""
    return ArraySlide(stained(301, 205), levels=(1, 2), broken_regions=[(0, Region(140, 100, 3, 3))])


def tree(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "SHARD_BYTES", SMALL_SHARDS)
        output = tmp_path_factory.mktemp("whole") / "s.zarr"
        tile_slide(make_slide(), output, CONFIG)
    return tree(output)


@pytest.mark.parametrize(
    ("owner", "name", "after", "when"),
    [
        ("slide", "read_region", 1, "before"),  # nothing there yet
        ("slide", "read_region", 4, "before"),  # while pixels are read
        ("place", "put", 3, "after"),  # while the empty store is made
        ("place", "put", 11, "after"),  # a shard in place, the journal not told
        ("journal", "append", 1, "after"),  # and told
        ("journal", "append", 3, "torn"),  # a temporary file left
        ("journal", "append", 8, "after"),  # all of level 0 and some of level 1 done
        ("files", "write_bytes", 1, "before"),  # all but the last step
        ("files", "write_bytes", 1, "after"),  # complete, the journal still there
    ],
)
def test_killed_and_resumed(tmp_path, monkeypatch, uninterrupted, owner, name, after, when):
    output = tmp_path / "s.zarr"
    command = [sys.executable, "-c", VICTIM, str(output), owner, name, str(after), when]
    killed = subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    unfinished = output.exists() and (owner, name, when) != ("files", "write_bytes", "after")
    done = len(journal_of(output).read()) if output.exists() else 0
    if unfinished:
        with pytest.raises(StoreIncompleteError):
            TileStore.open(output)
    monkeypatch.setattr(sharding, "SHARD_BYTES", SMALL_SHARDS)
    slide, fresh = make_slide(), make_slide()
    summary = tile_slide(slide, output, CONFIG)
    assert summary.state == ("resumed" if unfinished else "skipped" if output.exists() and done else "written")
    assert summary.unreadable_tiles == 1
    assert tree(output) == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]
    if done:
        tile_slide(fresh, tmp_path / "fresh.zarr", CONFIG)
        assert slide.reads < fresh.reads


def test_unfinished_with_other_parameters_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("wsi_attn.tiling.write._mark_complete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tile_slide(make_slide(), tmp_path / "s.zarr", CONFIG)
    with pytest.raises(FileExistsError, match="tile_size 32 instead of 64"):
        tile_slide(make_slide(), tmp_path / "s.zarr", TileConfig(tile_size=64))
