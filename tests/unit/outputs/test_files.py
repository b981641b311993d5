"""Files and folders are replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsi_attn.outputs import files


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ValueError, match=r"NaN|JSON|nan"):
        files.write_json(tmp_path / "a.txt", {"x": float("nan")})
    assert (tmp_path / "a.txt").read_text() == "old"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()

    def fail() -> None:
        with files.new_folder(tmp_path / "folder") as folder:
            (folder / "new").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["old"]
    with files.new_folder(tmp_path / "folder") as folder:
        (folder / "new").touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "folder"]


def test_write_that_fails_half_way_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.bin"
    files.write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_bytes(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [found.name for found in path.parent.iterdir()] == ["a.bin"]
    monkeypatch.undo()
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_folder_that_cannot_be_moved_into_place_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    rename = Path.rename

    def stubborn(self: Path, to: Path) -> Path:
        if to == target and not (self / "old").exists():
            raise PermissionError(13, "Permission denied")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", stubborn)
    with pytest.raises(PermissionError), files.new_folder(target) as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in target.iterdir()] == ["old"]
