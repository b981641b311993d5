"""`verify` on stores with every kind of damage, and commands that refuse to read such stores."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.runner import Result, in_process
from tests.conftest import DATA
from wsi_attn.store.schema import SEAL
from wsi_attn.store.sharding import crc32c

Command = Callable[..., Result]

SCHEMA2 = DATA / "store_schema2.zarr"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return lambda *arguments, code=0: in_process(capsys, *arguments, code=code)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store with two grids."""
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    for arguments in (
        (
            DATA / "cmu1_small_region.svs",
            "--mpp",
            "8",
            "--tile-size",
            "64",
            "--codec",
            "jpeg",
            "--scores",
            "tissue,focus",
        ),
        (path, "--grid", "half", "--tile-size", "32", "--scores", "tissue"),
    ):
        command = [sys.executable, "-m", "wsi_attn", "tile", *map(str, arguments), "-o", str(path), "-q"]
        subprocess.run(command, check=True, capture_output=True)
    return path


def files_of(store: Path) -> list[str]:
    return sorted(file.relative_to(store).as_posix() for file in store.rglob("*") if file.is_file())


def delete(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x01
    file.write_bytes(data)


def gut(store: Path, pattern: str) -> list[Path]:
    """Delete the chunks of arrays, which Zarr then reads as zeros."""
    gone = [file for file in store.glob(pattern) if file.is_file()]
    for file in gone:
        file.unlink()
    assert gone
    return gone


@pytest.mark.parametrize("damage", [delete, truncate, empty, flip])
@pytest.mark.parametrize("fast", [(), ("--fast",)])
def test_verify_names_every_damaged_file(
    command: Command, store: Path, tmp_path: Path, damage: Callable[[Path], None], fast: tuple[str, ...]
) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "s.zarr"))
    keys = files_of(copy)
    assert len(keys) > 20
    for key in keys:
        file = copy / key
        content = file.read_bytes()
        damage(file)
        assert str(file) in command("verify", copy, *fast, code=3).error()
        file.write_bytes(content)
    assert "\tsound\t" in command("verify", copy, *fast).stdout


@pytest.mark.slow
def test_every_byte_of_the_root_metadata_counts(command: Command, store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "s.zarr"))
    file = copy / "zarr.json"
    content = file.read_bytes()
    for place in range(0, len(content), 97):
        data = bytearray(content)
        data[place] ^= 0x20 if data[place] != 0x20 else 0x29  # another case, or another white space
        file.write_bytes(data)
        assert str(file) in command("verify", copy, "--fast", code=3).error()


def test_verify_names_files_that_do_not_belong(command: Command, store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "s.zarr"))
    for key in (
        "0/c/0/0/1",
        "tiles/default/coords/c/1/0",
        "tiles/other/zarr.json",
        "labels/x/0/zarr.json",
        "notes.txt",
    ):
        file = copy / key
        created = [folder for folder in file.parents if not folder.exists()]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"{}")
        error = command("verify", copy, code=3).error()
        assert f"{file} does not belong to the store" in error
        file.unlink()
        for folder in created:
            folder.rmdir()
    (copy / ".hidden.tmp").write_bytes(b"")  # an interrupted writer leaves hidden files; no reader takes them
    command("verify", copy)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["new", "schema 2"])
@pytest.mark.parametrize(
    "pattern", ["tiles/*/coords/c/**/*", "tiles/*/readable/c/*", "labels/tissue/0/c/**/*", "tiles/default/*/**/*"]
)
def test_gutted_stores_are_refused_by_all_readers(
    command: Command, store: Path, tmp_path: Path, source: str, pattern: str
) -> None:
    copy = Path(shutil.copytree(store if source == "new" else SCHEMA2, tmp_path / "s.zarr"))
    gone = gut(copy, pattern)
    for arguments in (
        ("verify", copy),
        ("info", copy),
        ("export", copy, "--to", "geojson", "-o", tmp_path / "out"),
        ("export", copy, "--to", "csv", "-o", tmp_path / "out"),
        ("heatmap", copy, "-o", tmp_path / "out"),
        ("predict", copy, "--model", "cellularity-he", "--output", tmp_path / "out"),
        ("tile", copy, "-o", tmp_path / "again.zarr"),
    ):
        error = command(*arguments, code=3).error()
        assert any(str(file) in error for file in gone) or "/zarr.json" in error, error
    assert not list((tmp_path / "out").glob("s*"))


def test_changed_arrays_are_refused_when_they_are_read(command: Command, store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "s.zarr"))
    shutil.copy(copy / "tiles/half/scores/tissue/c/0", copy / "tiles/default/scores/tissue/c/0")
    assert "scores/tissue/c/0" in command("heatmap", copy, "-o", tmp_path / "out", code=3).error()
    fresh = Path(shutil.copytree(store, tmp_path / "t.zarr"))
    document = json.loads((fresh / "tiles/default/coords/zarr.json").read_text())
    document["attributes"]["downsample"] = [1.0, 1.0]
    (fresh / "tiles/default/coords/zarr.json").write_text(json.dumps(document, indent=2, ensure_ascii=False))
    assert "coords/zarr.json" in command("export", fresh, "--to", "csv", "-o", tmp_path / "out", code=3).error()


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [
        ("zarr.json", ("attributes", "wsi_attn", "mpp"), "0.5"),
        ("zarr.json", ("attributes", "wsi_attn", "levels"), [{"width": 5}]),
        ("zarr.json", ("attributes", "wsi_attn", "tissue"), None),
        ("zarr.json", ("attributes", "wsi_attn"), []),
        ("zarr.json", ("attributes",), 7),
        ("0/zarr.json", ("codecs",), "jpeg"),
        ("0/zarr.json", ("shape",), [3, 1, 1]),
        ("labels/tissue/0/zarr.json", ("shape",), [1, None]),
        ("labels/tissue/zarr.json", ("attributes", "wsi_attn", "downsample"), [1]),
        ("tiles/default/coords/zarr.json", ("attributes", "tile_size"), "64"),
        ("tiles/default/coords/zarr.json", ("attributes", "scores"), None),
        ("tiles/default/scores/tissue/zarr.json", ("data_type",), "complex128"),
    ],
)
def test_wrong_types_in_metadata_name_file_and_field(
    command: Command, tmp_path: Path, key: str, field: tuple[str, ...], value: object
) -> None:
    copy = Path(shutil.copytree(SCHEMA2, tmp_path / "s.zarr"))  # without checksums, so that the field itself is judged
    document = json.loads((copy / key).read_text())
    inner = document
    for name in field[:-1]:
        inner = inner[name]
    inner[field[-1]] = value
    (copy / key).write_text(json.dumps(document))
    read = ("--of", "tissue", "--to", "png") if key.startswith("labels") else ("--to", "csv")
    for arguments in (("verify", copy), ("export", copy, *read, "-o", tmp_path / "out")):
        error = command(*arguments, code=3).error()
        assert str(copy / key) in error
        assert field[-1] in error
    (copy / key).write_bytes(b'{"attributes": {"wsi_attn": ')
    assert str(copy / key) in command("verify", copy, code=3).error()


def test_an_older_store_is_read_and_verified_as_far_as_it_can_be(command: Command, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(SCHEMA2, tmp_path / "s.zarr"))
    before = {key: (copy / key).read_bytes() for key in files_of(copy)}
    result = command("verify", copy, "--json")
    (record,) = result.json()
    assert (record["state"], record["problems"]) == ("sound", [])
    assert "cannot be detected" in record["notes"][0]
    assert "schema 2" in result.stderr
    command("export", copy, "--to", "csv", "-o", tmp_path / "out")
    command("heatmap", copy, "-o", tmp_path / "out")
    command("tile", copy, "-o", copy, "--grid", "more", "--tile-size", "16", "--scores", "none")
    assert {key: (copy / key).read_bytes() for key in before} == before
    assert command("verify", copy, "--json").json()[0]["state"] == "sound"
    command("export", copy, "--grid", "more", "--to", "csv", "-o", tmp_path / "more")
    flip(copy / "tiles/default/scores/focus/c/0")
    assert "scores/focus/c/0" in command("verify", copy, code=3).error()


def test_folders_of_stores(command: Command, store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    for name in ("a.zarr", "b.zarr", "c.zarr"):
        shutil.copytree(store, folder / name)
    (folder / "b.zarr" / "tiles" / "half" / "coords" / "c" / "0" / "0").unlink()
    result = command("verify", folder, "--json", code=4)
    assert [(Path(record["store"]).name, record["state"]) for record in result.json()] == [
        ("a.zarr", "sound"),
        ("b.zarr", "damaged"),
        ("c.zarr", "sound"),
    ]
    (problem,) = result.json()[1]["problems"]
    assert "half/coords/c/0/0" in problem
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in command("verify", tmp_path / "empty", code=3).error()


KILLED = """
import os, signal, sys
import wsi_attn.store.additions as additions
from wsi_attn.cli.app import run

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

original = additions.write_root
def announce(store, meta):
    original(store, meta)
    die()

if sys.argv[1] == "commit":
    additions.commit = die
else:
    additions.write_root = announce
run(sys.argv[2:])
"""


@pytest.mark.parametrize("moment", ["announce", "commit"])
def test_a_grid_whose_addition_was_killed(command: Command, store: Path, tmp_path: Path, moment: str) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "s.zarr"))
    arguments = ("tile", copy, "-o", copy, "--grid", "late", "--tile-size", "16", "--scores", "none")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, moment, *map(str, arguments)], cwd=ROOT, check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (record,) = command("verify", copy, "--json").json()
    assert record["state"] == "sound"
    assert "tiles/late was interrupted" in record["notes"][0]
    assert "late" in command("export", copy, "--grid", "late", "--to", "csv", "-o", tmp_path / "out", code=2).error()
    command(*arguments)
    (record,) = command("verify", copy, "--json").json()
    assert (record["state"], record["notes"]) == ("sound", [])
    command("export", copy, "--grid", "late", "--to", "csv", "-o", tmp_path / "out")
    assert not list(copy.rglob(".*"))
    uninterrupted = Path(shutil.copytree(store, tmp_path / "t.zarr"))
    command("tile", uninterrupted, "-o", uninterrupted, *arguments[4:])
    assert files_of(uninterrupted) == files_of(copy)
    assert all((copy / key).read_bytes() == (uninterrupted / key).read_bytes() for key in files_of(copy))


def test_a_store_whose_metadata_was_changed_with_a_new_checksum_is_still_validated(
    command: Command, store: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "s.zarr"))
    document = json.loads((copy / "zarr.json").read_text())
    own = document["attributes"]["wsi_attn"]
    own["levels"][0]["width"], own[SEAL] = 10**15, "00000000"
    own[SEAL] = f"{crc32c(json.dumps(document).encode()):08x}"
    (copy / "zarr.json").write_text(json.dumps(document))
    assert "wsi_attn.levels[0].width" in command("info", copy, code=3).error()


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no device files")
@pytest.mark.parametrize("key", ["0/c/0/0/0", "labels/tissue/0/c/0/0", "zarr.json"])
def test_files_that_link_to_a_device_are_damage(key: str, store: Path, tmp_path: Path, command: Command) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "s.zarr"))
    (copy / key).unlink()
    (copy / key).symlink_to("/dev/zero")
    assert "not a regular file" in command("verify", copy, code=3).stderr
