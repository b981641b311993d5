"""Data sets of the experiments: rows of manifests, made from the shared folder.

Each maker returns rows with a `split`, train or test, or with the number of a `fold` of a cross-validation. The test
rows are the `val` rows of the shared folder where these were split by patient; where they are too few, all rows take
part in a cross-validation. Validation rows are drawn by `wsi-attn train` from the training patients, with the seed of
the run, and settings are chosen on them alone.
"""

from __future__ import annotations

import csv
import math
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import tifffile

from wsi_attn.data.manifest import Row, read_manifest
from wsi_attn.data.saliency import salient_boxes
from wsi_attn.data.sources import open_row

Cells = dict[str, str]
"""A row: path, label, patient, split or fold, boxes, mask, mpp."""

Maker = Callable[[Path, Path, int], list[Cells]]
"""Makes the rows of a data set from the shared folder, a folder for images, and the seed of the run."""

COLUMNS = ("path", "label", "patient", "split", "boxes", "mask", "mpp")
SHARED_SEED = 2026
"""Of every split and fold drawn here: the same for all arms and seeds."""


def indexed(folder: Path, patient: str = "") -> list[Cells]:
    """Rows of `index.csv`, each image once; its `val` part is the test part."""
    folder = folder.resolve()
    with (folder / "index.csv").open(newline="") as file:
        entries = sorted(csv.DictReader(file), key=lambda entry: entry["split"] == "val")
    rows: dict[str, Cells] = {}
    for entry in entries:
        row = {
            "path": str(folder / entry["path"]),
            "label": entry.get("label", ""),
            "patient": entry[patient] if patient else entry["path"],
            "split": "test" if entry["split"] == "val" else "train",
            "mask": str(folder / entry["mask"]) if entry.get("mask") else "",
        }
        rows.setdefault(entry["sha256"], row)
    return list(rows.values())


def dealt(rows: Sequence[Cells], folds: int) -> list[Cells]:
    """The rows with a fold each: the patients of each label are dealt in turn."""
    generator = np.random.default_rng(SHARED_SEED)
    fold_of: dict[str, int] = {}
    start = 0
    for label in sorted({row["label"] for row in rows}):
        names = sorted({row["patient"] for row in rows if row["label"] == label} - set(fold_of))
        for place, index in enumerate(generator.permutation(len(names)), start):
            fold_of[names[index]] = place % folds
        start += len(names)
    return [{**row, "fold": str(fold_of[row["patient"]])} for row in rows]


def fungi_photographs(data: Path, folder: Path, seed: int) -> list[Cells]:
    """One row for each photograph: its tiles, which make one field."""
    photographs: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in indexed(data / "classify" / "defungi", "group"):
        photographs[row["patient"], row["label"], row["split"]].append(row["path"])
    return [
        {"path": ";".join(sorted(tiles)), "label": label, "patient": group, "split": split}
        for (group, label, split), tiles in sorted(photographs.items())
    ]


def fungi_crops(data: Path, folder: Path, seed: int) -> list[Cells]:
    """One row for each tile, grouped by photograph."""
    return indexed(data / "classify" / "defungi", "group")


def breast_fields(data: Path, folder: Path, seed: int) -> list[Cells]:
    """All fields; each array block is a fold."""
    rows = indexed(data / "classify" / "ucsb_breast", "patient")
    blocks = sorted({Path(row["path"]).stem.split("_")[0] for row in rows})
    return [{**row, "fold": str(blocks.index(Path(row["path"]).stem.split("_")[0]))} for row in rows]


NUCLEUS = 64
"""Pixels along a nucleus of 27 px, enlarged: 16 in a coarse view of factor 4."""


def nuclei_bags(data: Path, folder: Path, seed: int) -> list[Cells]:
    """Nuclei of one image of CRCHistoPhenotypes laid out edge to edge; positive where any is cancerous."""
    source = data / "mil" / "crchisto"
    nuclei = np.load(source / "crchisto_nuclei.npz", allow_pickle=False)
    images, bags, cancerous = nuclei["images"], nuclei["bag"], nuclei["is_cancerous"]
    rows = []
    with (source / "index.csv").open(newline="") as file:
        for entry in csv.DictReader(file):
            members = np.flatnonzero(bags == int(entry["bag"]))
            columns = math.ceil(math.sqrt(len(members)))
            field = np.full((math.ceil(len(members) / columns) * NUCLEUS, columns * NUCLEUS, 3), 255, np.uint8)
            boxes = []
            for place, member in enumerate(members):
                x, y = place % columns * NUCLEUS, place // columns * NUCLEUS
                field[y : y + NUCLEUS, x : x + NUCLEUS] = cv2.resize(images[member], (NUCLEUS, NUCLEUS))
                boxes += [(x, y, x + NUCLEUS, y + NUCLEUS)] if cancerous[member] else []
            rows.append(
                {
                    "path": write_image(folder / f"bag-{int(entry['bag']):03}.png", field),
                    "label": "cancerous" if entry["label"] == "1" else "benign",
                    "patient": f"bag-{entry['bag']}",
                    "split": "test" if entry["split"] == "val" else "train",
                    "boxes": joined(boxes),
                }
            )
    return rows


def chest_x_rays(data: Path, folder: Path, seed: int) -> list[Cells]:
    """Photographs in a random split; five of neighbouring numbers, which look alike, are one group.

    The `val` part of the shared folder is the end of the numbering, where the apparatus differs from that of the rest.
    """
    rows = indexed(data / "aligned" / "chest_xray")
    for row in rows:
        row["patient"] = f"{row['label']}-{int(Path(row['path']).stem.rpartition('_')[2]) // 5}"
    return [{**row, "split": "test" if row["fold"] == "0" else "train", "fold": ""} for row in dealt(rows, 4)]


def skin(data: Path, folder: Path, seed: int) -> list[Cells]:
    """Lesions, with salient boxes of those of the rare classes to train on, since the data has none."""
    rows = indexed(data / "classify" / "ham10000")
    for row in rows:
        if row["split"] == "train" and row["label"] in SKIN_RARE:
            row["boxes"] = salient(row)
    return rows


SKIN_RARE = ("akiec", "df", "vasc")


def salient(row: Cells) -> str:
    """Boxes found by saliency, as a manifest has them."""
    whole = Row(Path(row["path"]), row["label"], row["patient"], row["split"], None, 0)
    with open_row(whole) as slide:
        return joined(salient_boxes(slide).boxes)


def white_cells(data: Path, folder: Path, seed: int) -> list[Cells]:
    """White blood cells with the boxes of their masks, in three folds: of some kinds there are few."""
    rows = indexed(data / "boxes" / "wbc")
    with (data / "boxes" / "wbc" / "index.csv").open(newline="") as file:
        boxes = {
            entry["path"]: " ".join(entry[side] for side in ("x1", "y1", "x2", "y2")) for entry in csv.DictReader(file)
        }
    return dealt([{**row, "boxes": boxes[row["patient"]]} for row in rows], 3)


PLATELET_FIELDS = 16
"""Training fields with platelets that are kept, beside 88 without: platelets are to be rare."""


def platelets(data: Path, folder: Path, seed: int) -> list[Cells]:
    """Fields of blood, with the boxes of platelets."""
    rows, kept = [], 0
    for row in indexed(data / "boxes" / "bccd"):
        if row["label"] == "platelets":
            kept += row["split"] == "train"
            if row["split"] == "train" and kept > PLATELET_FIELDS:
                continue
            row["boxes"] = joined(platelet_boxes(data / "boxes" / "bccd" / "voc" / f"{Path(row['path']).stem}.xml"))
        rows.append(row)
    return rows


def platelet_boxes(path: Path) -> list[tuple[int, int, int, int]]:
    """Those of a Pascal VOC file, which also has red and white cells; empty ones left out."""
    boxes = []
    for item in ElementTree.parse(path).iter("object"):
        if item.findtext("name", "").lower() == "platelets":
            x1, y1, x2, y2 = (int(item.findtext(f"bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax"))
            boxes += [(x1, y1, x2, y2)] if x1 < x2 and y1 < y2 else []
    return boxes


def pneumonia(images: int) -> Maker:
    """PneumoniaMNIST with so many training images, drawn by the seed, half of each label."""

    def make(data: Path, folder: Path, seed: int) -> list[Cells]:
        archive = np.load(data / "aligned" / "pneumoniamnist" / "pneumoniamnist_trainval.npz", allow_pickle=False)
        order = np.random.default_rng([SHARED_SEED, seed]).permutation(len(archive["train_images"]))
        of_label = archive["train_labels"].ravel()[order]
        chosen = {
            "train": np.concatenate([order[of_label == label][: images // 2] for label in (0, 1)]),
            "val": np.arange(len(archive["val_images"])),
        }
        return [
            {
                "path": write_image(folder / f"{part}-{index:04}.png", archive[f"{part}_images"][index]),
                "label": ("normal", "pneumonia")[archive[f"{part}_labels"].ravel()[index]],
                "patient": f"{part}-{index}",
                "split": "test" if part == "val" else "train",
            }
            for part, indices in chosen.items()
            for index in indices
        ]

    return make


def stained_nuclei(data: Path, folder: Path, seed: int) -> list[Cells]:
    """DSB 2018, two stains; the label is the stain."""
    return indexed(data / "segment" / "dsb2018")


def tissue_nuclei(data: Path, folder: Path, seed: int) -> list[Cells]:
    """MoNuSeg; of six images each pair is a fold."""
    return dealt(indexed(data / "segment" / "monuseg"), 3)


def vessels(data: Path, folder: Path, seed: int) -> list[Cells]:
    """CHASE-DB1 in five folds; both eyes of a child are one group."""
    return dealt([{**row, "label": ""} for row in indexed(data / "segment" / "chase_db1", "patient")], 5)


MARK, SIDE, MARKS_MPP = 16, 1536, "0.5"
TONES = np.array([[0, 50, 20], [190, 255, 200]], np.uint8)
"""Dark and pale green, colours that the stain does not have: marks are easy to find and hard to read."""


def marks(data: Path, folder: Path, seed: int) -> list[Cells]:
    """Tissue of 1,536 px with one to three marks of 16 px, whose fine pattern is the class.

    The pattern is stripes or checks of 2 px; averaged over blocks of 4 px or more both are the same to the pixel, so
    that a coarse view shows where marks are and not what they are. Training images come from the upper half of a slide,
    test images from its lower half.
    """
    with tifffile.TiffFile(data / "slides" / "crc01_he_left.tif") as file:
        pixels = file.series[0].levels[0].asarray()
    middle, rows = len(pixels) // 2, []
    for part, (split, count, half) in enumerate((("train", 240, pixels[:middle]), ("test", 120, pixels[middle:]))):
        for index in range(count):
            generator = np.random.default_rng([1, part, index])
            label = ("checks", "stripes")[index % 2]
            field, boxes = marked(half, label, generator)
            name = f"{split}-{index:04}"
            path = write_image(folder / f"{name}.png", field)
            rows.append(
                {
                    "path": path,
                    "label": label,
                    "patient": name,
                    "split": split,
                    "mpp": MARKS_MPP,
                    "boxes": joined(boxes),
                }
            )
    return rows


def marked(
    tissue: np.ndarray, label: str, generator: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """A field of tissue, in one of eight orientations, with its marks, and their boxes."""
    for _ in range(50):
        y, x = (int(generator.integers(0, extent - SIDE)) for extent in tissue.shape[:2])
        small = tissue[y : y + SIDE : 16, x : x + SIDE : 16].astype(int)
        if np.mean(small.max(axis=-1) - small.min(axis=-1) > 25) > 0.5:
            break
    turned = np.rot90(tissue[y : y + SIDE, x : x + SIDE], int(generator.integers(4)))
    field = np.ascontiguousarray(turned[:, ::-1] if generator.integers(2) else turned)
    boxes: list[tuple[int, int, int, int]] = []
    count = int(generator.integers(1, 4))
    while len(boxes) < count:
        x, y = (int(generator.integers(MARK // 4, (SIDE - 2 * MARK) // 4)) * 4 for _ in range(2))
        if all(max(abs(x - box[0]), abs(y - box[1])) > 4 * MARK for box in boxes):
            rows, columns = np.mgrid[:MARK, :MARK] // 2
            phase, upright = generator.integers(0, 2, 2)
            pattern = rows + columns if label == "checks" else (columns if upright else rows)
            field[y : y + MARK, x : x + MARK] = TONES[(pattern + phase) % 2]
            boxes.append((x, y, x + MARK, y + MARK))
    return field, boxes


def random_boxes(rows: list[Cells], folder: Path) -> list[Cells]:
    """Control: boxes of the same sizes at random places, those that are trained on."""
    generator = np.random.default_rng(SHARED_SEED)

    def moved(row: Cells) -> str:
        height, width = image_size(row)
        found = []
        for x1, y1, x2, y2 in split(row["boxes"]):
            x, y = (int(generator.integers(0, max(1, room + 1))) for room in (width - (x2 - x1), height - (y2 - y1)))
            found.append((x, y, x + x2 - x1, y + y2 - y1))
        return joined(found)

    return [{**row, "boxes": moved(row)} if row.get("boxes") else row for row in rows]


def shuffled_boxes(rows: list[Cells], folder: Path) -> list[Cells]:
    """Control: the boxes of another image, scaled to the size of this one."""
    having = [row for row in rows if row.get("boxes")]
    order = np.random.default_rng(SHARED_SEED).permutation(len(having))
    given = {id(having[order[n]]): having[order[n - 1]] for n in range(len(having))}  # one cycle: no box stays

    def scaled(row: Cells) -> str:
        (height, width), (other_height, other_width) = image_size(row), image_size(given[id(row)])
        x, y = width / other_width, height / other_height
        boxes = [
            (int(a * x), int(b * y), math.ceil(c * x), math.ceil(d * y))
            for a, b, c, d in split(given[id(row)]["boxes"])
        ]
        return joined([(a, b, min(c, width), min(d, height)) for a, b, c, d in boxes])

    return [{**row, "boxes": scaled(row)} if row.get("boxes") else row for row in rows]


SHUFFLED_SIDE = 96


def shuffled_pixels(rows: list[Cells], folder: Path) -> list[Cells]:
    """Control: the pixels of every image in one random order, so that places mean as much and neighbours nothing."""
    order = np.random.default_rng(SHARED_SEED).permutation(SHUFFLED_SIDE**2)
    found = []
    for number, row in enumerate(sorted(rows, key=lambda row: row["path"])):  # names in the order of the others
        pixels = cv2.resize(pixels_of(row), (SHUFFLED_SIDE, SHUFFLED_SIDE), interpolation=cv2.INTER_AREA)
        path = write_image(folder / f"{number:04}.png", pixels.reshape(-1, 3)[order].reshape(pixels.shape))
        found.append({**row, "path": path})
    return found


VARIANTS: dict[str, Callable[[list[Cells], Path], list[Cells]]] = {
    "random-boxes": random_boxes,
    "shuffled-boxes": shuffled_boxes,
    "shuffled-pixels": shuffled_pixels,
}


def write_manifests(make: Maker, data: Path, folder: Path, seed: int, variant: str = "") -> list[Path]:
    """Write the manifests of a data set, one for each fold; those that are there are kept."""
    done = folder / "complete"
    if not done.is_file():
        rows = make(data, folder / "images", seed)
        if variant:
            rows = VARIANTS[variant](rows, folder / "images")
        for fold in sorted({row.get("fold", "") for row in rows}):
            path = folder / f"manifest{fold and '-'}{fold}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="")
                writer.writeheader()
                for row in rows:
                    split = row.get("split", "") if not fold else ("test" if row["fold"] == fold else "train")
                    writer.writerow({**row, "split": split})
            read_manifest(path, need_label=any(row["label"] for row in rows))
        done.touch()
    return sorted(folder.glob("manifest*.csv"))


def write_image(path: Path, pixels: np.ndarray) -> str:
    """Write an image, grey or RGB; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return str(path.resolve())


def image_size(row: Cells) -> tuple[int, int]:
    """Height and width."""
    return pixels_of(row).shape[:2]


def pixels_of(row: Cells) -> np.ndarray:
    """The image of a row, uint8 (height, width, 3), RGB."""
    pixels = cv2.imread(row["path"])
    if pixels is None:
        raise SystemExit(f"Cannot read {row['path']}: the file is missing or no image")
    return np.asarray(pixels[..., ::-1])


def joined(boxes: Sequence[tuple[int, int, int, int]]) -> str:
    """Boxes x1 y1 x2 y2 as a manifest has them."""
    return ";".join(" ".join(map(str, box)) for box in boxes)


def split(text: str) -> list[tuple[int, int, int, int]]:
    """Reverse of `joined`."""
    boxes = []
    for part in text.split(";"):
        x1, y1, x2, y2 = map(int, part.split())
        boxes.append((x1, y1, x2, y2))
    return boxes
