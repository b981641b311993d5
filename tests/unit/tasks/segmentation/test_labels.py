"""Resuming a label image whose files a power failure has cut, emptied or removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsi_attn.geometry import Frame, Size
from wsi_attn.tasks.segmentation import labels
from wsi_attn.tasks.segmentation.labels import LabelImage

CLASSES = np.random.default_rng(0).integers(0, 3, (150, 200)).astype(np.uint8)
CLASSES[:64, 64:128] = 0


def image(folder: Path) -> LabelImage:
    made = LabelImage(folder / "a.zarr", Frame(Size(200, 150), 1.0, 1.0), None, ["none", "a", "b"], {}, levels=2)
    made.open()
    return made


def write(made: LabelImage, most: int = 1000) -> int:
    """Write at most so many blocks that are not done; return how many."""
    todo = [block for block in made.blocks() if not made.is_done(block)][:most]
    for block in todo:
        classes = CLASSES[block.y : block.y1, block.x : block.x1]
        made.write(block, classes if classes.any() else None, unreadable=1)
    return len(todo)


def tree(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("0/c/0/0", 3),
        ("0/c/1/3", 3),
        ("1/zarr.json", 12),
        ("zarr.json", 12),
        ("journal.jsonl", 12),
        ("1/c/0/0", 2),
        ("nothing", 2),
    ],
)
def test_lost_blocks_are_written_again(
    name: str, again: int, damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "BLOCK", 64)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        made = image(folder)
        write(made, 10)
        made.downsample()
        if folder == killed:
            path = folder / ".a.zarr.part" / name
            if path.exists():
                damage(path)
            made = image(folder)
            assert write(made) in (again, 12 if name == "journal.jsonl" and damage is cut else again)
        else:
            write(made)
        made.downsample()
        assert sum(made.done.values()) == 12
        made.finish()
    assert tree(killed) == tree(whole)
