"""The folder of composed fields and its manifest that every recipe writes before training."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import ManifestError
from wsi_attn.outputs import files
from wsi_attn.outputs.policy import Found, Output, complete, other, same, unfinished
from wsi_attn.slide import UInt8Array

JPEG_QUALITY = 92
RECORD = "fields.json"


@dataclass(frozen=True)
class Field:
    """A composed image: uint8 (rows, columns, 3), with label, group, split and optional region mask."""

    name: str
    pixels: UInt8Array
    label: str
    group: str
    split: str
    mpp: float | None = None
    mask: NDArray[np.bool_] | None = None


def fields_output(folder: Path, made_of: Mapping[str, object]) -> Output[Path]:
    """The folder as an output: complete with the record that `write_fields` writes last, and written again without."""

    def inspect() -> Found[Path]:
        try:
            recorded = json.loads((folder / RECORD).read_text())
        except (OSError, ValueError):
            return unfinished()
        return complete(folder) if same(recorded, made_of) else other("contains the fields of another recipe or seed")

    return Output(folder, inspect)


def write_fields(folder: Path, fields: Iterable[Field], made_of: Mapping[str, object]) -> Path:
    """Write fields as JPEG, masks as PNG, `manifest.csv` and finally a record of `made_of`; return the manifest."""
    table: list[list[object]] = [["path", "label", "patient", "split", "mpp", "mask"]]
    for field in fields:
        image = Path("images") / f"{field.name}.jpg"
        encode(folder / image, field.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        mask = Path("masks") / f"{field.name}.png"
        if field.mask is not None:
            encode(folder / mask, field.mask.astype(np.uint8) * 255, [])
        where = mask.as_posix() if field.mask is not None else ""
        table.append([image.as_posix(), field.label, field.group, field.split, field.mpp or "", where])
    manifest = folder / "manifest.csv"
    files.write_csv(manifest, table)
    files.write_json(folder / RECORD, made_of)
    return manifest


def encode(path: Path, pixels: NDArray[np.uint8], options: list[int]) -> None:
    """Write an image with channels in OpenCV's order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), pixels, options):
        raise OSError(f"cannot write {path}")


def read_index(folder: Path) -> list[dict[str, str]]:
    """Read the rows of a data set's `index.csv`; raises `ManifestError` if it is missing."""
    path = folder / "index.csv"
    if not path.is_file():
        raise ManifestError(f"{path} does not exist; give the folder of the data sets with --data")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_rgb(path: Path) -> UInt8Array:
    """Read an 8-bit image as uint8 (rows, columns, 3), RGB."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ManifestError(f"Cannot read {path}")
    return np.ascontiguousarray(pixels[..., ::-1]).astype(np.uint8, copy=False)
