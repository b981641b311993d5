"""Fields for `fungi`: the crops of a photograph arranged as one image.

The source (DeFungi, CC BY 4.0) divides 597 microscope photographs into crops of 224 px and assigns each to one of five
morphologies. The crops of a photograph (column `group`) become one field in a grid with the rounded-up square root of
their number as columns; the rest is white. The photographs of the source's `val` rows form the test set. Every crop of
a training photograph is also a small field, so that the model sees many small images and cannot rely on the layout.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wsi_attn.recipes.fields import Field, read_index, read_rgb
from wsi_attn.slide import UInt8Array

DATA = Path("classify/defungi")
CROP = 224
VALIDATION_SHARE = 0.15

ABOUT = (
    "Five morphologies of fungi in microscope photographs: BASH (beaded arthroconidial septate hyaline hyphae), BBH "
    "(broad brown hyphae), GMA (groups or mosaics of arthroconidia), SHC (septate hyaline hyphae with "
    "chlamydoconidia), TSH (tortuous septate hyaline hyphae).",
    "Data: DeFungi (Sopo, Hajati, Gheisari; UCI Machine Learning Repository), CC BY 4.0, a subset of 2,860 crops of "
    "597 photographs. The crops of a photograph form one field; each photograph is in one split only.",
)

NOT_FOR = (
    "The model does not identify species and gives no mycological diagnosis. The photographs come from one source with "
    "varying and unknown magnification; photographs of a patient may occur in two splits, because the source does not "
    "list patients. It assigns one of its five labels to any image.",
)


def make_fields(data: Path, seed: int) -> Iterator[Field]:
    """Yield all fields of the recipe from `classify/defungi` in `data`."""
    generator = np.random.default_rng(seed)
    folder = data / DATA
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in read_index(folder):
        groups[row["split"], row["label"], row["group"]].append(row["path"])
    held = _held_out(sorted(groups), generator)
    for (split, label, group), paths in sorted(groups.items()):
        crops = [read_rgb(folder / path) for path in sorted(paths)]
        part = "test" if split == "val" else "val" if (split, label, group) in held else "train"
        yield Field(group, lay_out(crops, math.ceil(math.sqrt(len(crops)))), label, group, part)
        if part == "train" and len(crops) > 1:
            for index, crop in enumerate(crops):
                yield Field(f"{group}_{index}", lay_out([crop], 1), label, group, part)


def lay_out(crops: Sequence[UInt8Array], columns: int) -> UInt8Array:
    """Arrange crops row by row in a grid: uint8 (rows * CROP, columns * CROP, 3), padded with white."""
    rows = math.ceil(len(crops) / columns)
    field = np.full((rows * CROP, columns * CROP, 3), 255, np.uint8)
    for index, crop in enumerate(crops):
        y, x = index // columns * CROP, index % columns * CROP
        field[y : y + CROP, x : x + CROP] = crop[:CROP, :CROP]
    return field


def _held_out(groups: Sequence[tuple[str, str, str]], generator: np.random.Generator) -> set[tuple[str, str, str]]:
    """Return the training photographs held out for validation, stratified by label."""
    held: set[tuple[str, str, str]] = set()
    for label in sorted({label for _, label, _ in groups}):
        own = [group for group in groups if group[:2] == ("train", label)]
        count = max(1, round(VALIDATION_SHARE * len(own)))
        held.update(own[index] for index in generator.permutation(len(own))[:count])
    return held
