"""The crops of a photograph, laid out as one field; a photograph in one part only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from wsi_attn.data.manifest import read_manifest
from wsi_attn.recipes import fungi
from wsi_attn.recipes.fields import write_fields


def test_layout_row_by_row_with_the_rest_filled() -> None:
    crops = [np.full((224, 224, 3), grey, np.uint8) for grey in (10, 20, 30)]
    field = fungi.lay_out(crops, 2)
    assert field.shape == (448, 448, 3)
    assert [int(field[y, x, 0]) for y in (0, 447) for x in (0, 447)] == [10, 20, 30, 255]


def make_data(folder: Path, groups: int = 8) -> Path:
    """A data set of the source's shape: two labels, `groups` photographs each, three crops a photograph."""
    rows = ["path,label,split,group"]
    root = folder / fungi.DATA
    for label in ("BBH", "TSH"):
        for group in range(groups):
            for crop in range(3):
                path = Path("images") / f"{label}_{group}_{crop}.png"
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / path), np.full((224, 224, 3), 20 * group + crop, np.uint8))
                rows.append(f"{path},{label},{'val' if group == 0 else 'train'},{label}{group}")
    (root / "index.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_photograph_is_in_one_part(tmp_path: Path) -> None:
    manifest = write_fields(
        tmp_path / "fields", fungi.make_fields(make_data(tmp_path), 0), {"recipe": "fungi", "seed": 0}
    )
    splits = defaultdict(set)
    for row in read_manifest(manifest):
        splits[row.patient].add(row.split)
    assert all(len(found) == 1 for found in splits.values())
    assert sorted(next(iter(found)) for found in splits.values()) == ["test"] * 2 + ["train"] * 12 + ["val"] * 2


def test_real_data(collection: Callable[[str], Path]) -> None:
    data = collection("classify/defungi").parents[1]
    field = next(fungi.make_fields(data, 0))
    assert field.pixels.shape[0] % fungi.CROP == 0
