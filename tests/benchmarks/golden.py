"""Compare what the command line of two checkouts writes, file by file and byte by byte.

    python tests/benchmarks/golden.py OLD NEW [--data FOLDER] [--work FOLDER] [--only NAME,NAME] [--list]

OLD and NEW are checkouts, or folders that an earlier run left in --work, which are not run again. Each checkout runs
the commands of CASES with its own package, in a folder of its own, on the slides of `tests/data` and of the data
collection. Then every file, stdout, stderr and exit code are compared. Times, versions and the name of the folder are
blanked before; nothing else is. --only runs the named cases and those they need: `tile` stands for `tile` and every
`tile-...`. Prints one line per case and the first difference of each file. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
COLLECTION = Path(os.environ.get("WSI_ATTN_DATA", HERE.parent / "shared" / "data"))
STREAMS = "streams"
FOLDER = f"{STREAMS}/folder"
KEYS = "[a-z_]*seconds[a-z_]*|[a-z_]*_per_second|version|software|created|date|commit|python|platform|peak_mb|idle"
VOLATILE = re.compile(rf'("(?:{KEYS})":\s*)("[^"]*"|-?[0-9][-+0-9.eE]*|null|\{{[^{{}}]*\}})'.encode())
TIMES = re.compile(
    rb"peak memory \d+ MB|\b[0-9]+(?:\.[0-9]+)? (?:s|min|ms|MB/s|tiles/s)\b|\b[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.+Z]+"
)
BINARY = {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".parquet", ".safetensors", ".npz", ""}


MOST_LINES = 8
"""Differences printed of a case."""


@dataclass(frozen=True)
class Case:
    """One command line, run in the folder of its checkout.

    Attributes
    ----------
    name
        The files that it writes lie in `name/`, or in that of another case that it changes.
    command
        Arguments of `wsi-attn`, as a shell reads them.
    needs
        Cases that come before.
    otherwise
        The same command as other checkouts spell it: run where `command` has exit code 2.
    """

    name: str
    command: str
    needs: tuple[str, ...] = ()
    otherwise: str = ""


DEMO = "demo.svs"
TINY = "--weights none --epochs 1 --batch-size 4 --seed 3 --device cpu --threads 2"
SMALL = f"{TINY} --patch-size 32 --coarse-factor 4 --instances 2"
PLAIN = "data/slides/rgb_uint16.tiff data/slides/untiled_10000x5000_grey.tif data/images/tcga_tiles"
DICOM = (
    "data/slides/dicom_camelyon_level.dcm data/slides/dicom_bpaec data/slides/dicom_pair data/slides/dicom_sm_rgb.dcm"
)


def both(name: str, command: str, *needs: str, otherwise: str = "") -> list[Case]:
    """A command and the same again, which says whether complete output is skipped."""
    return [Case(name, command, needs, otherwise), Case(f"{name}-again", command, (name,), otherwise)]


def training(name: str, manifest: str, system: str, options: str) -> list[Case]:
    """Training and evaluation of one system."""
    train = f"train {manifest} -o {name}/run {options} --json"
    split = "val" if "--folds" not in options else "all"
    evaluate = f"evaluate {name}/run {manifest} --split {split} --report {name}/report --threads 2 --json"
    return [
        Case(name, f"{train} --model {system}", otherwise=train.replace("train", f"train {system}", 1)),
        Case(f"{name}-evaluate", evaluate, (name,)),
    ]


def exports() -> list[Case]:
    """Every exporter on a prediction and on a store."""
    made = []
    for form in ("png", "geojson", "ome-tiff", "ome-zarr", "csv", "parquet", "dzi", "html"):
        for kind, source, needs in (
            ("slide", "predict/demo.prediction.json", "predict"),
            ("store", "tile/demo.zarr", "tile"),
        ):
            of = "attention" if kind == "slide" else "score:sharpness"
            command = f"export {source} --to {form} -o export-{form}-{kind}/ --of {of}"
            made += both(f"export-{form}-{kind}", command, needs)
    more = {
        "dzi-plain": "dzi --of slide --downsample 4 -o export-dzi-plain/",
        "png-overlay": "png --transparent --colours magma --opacity 0.8 --downsample 4 -o export-png-overlay/",
        "png-value": "png --as value --of uncertainty -o export-png-value/",
        "geojson-top": "geojson --top 5 --as-annotations -o export-geojson-top/",
        "ome-tiff-values": "ome-tiff --values -o export-ome-tiff-values/",
        "ome-tiff-pages": "ome-tiff --pyramid pages --size 900 -o export-ome-tiff-pages/",
        "html-layers": "html --of attention --of uncertainty --top 4 -o export-html-layers/demo.html",
    }
    made += [
        Case(f"export-{name}", f"export predict/demo.prediction.json --to {options}", ("predict",))
        for name, options in more.items()
    ]
    return [*made, Case("export-refused", "export tile/demo.zarr --to attention-map -o export-refused/", ("tile",))]


CASES = [
    Case("info", f"info --json data/slides/* data/images/tcga_tiles {DEMO}"),
    Case("info-text", f"info {DEMO} data/slides/crc01_he_left.tif data/slides/dicom_bpaec --slide-mpp 0.3"),
    *both("tissue", f"tissue {DEMO} -o tissue --json"),
    Case("tissue-robust", f"tissue {DEMO} data/slides/ndpi_dapi.ndpi -o tissue-robust --method robust --json"),
    Case("tissue-none", f"tissue {DEMO} -o tissue-none --method none --json"),
    Case("tissue-large", "tissue data/slides/crc01_he_left.tif -o tissue-large --slide-mpp 0.65 --simplify 4 --json"),
    Case("tissue-fine", f"tissue {DEMO} -o tissue-fine --mpp 2 --min-area 500 --max-hole 100 --json"),
    Case("tissue-plain", f"tissue {PLAIN} -o tissue-plain --slide-mpp 0.5 --json"),
    Case("tissue-refused", f"tissue {DEMO} -o tissue --method none --json", ("tissue",)),
    *both("tile", f"tile {DEMO} -o tile --json"),
    Case("tile-zstd", f"tile {DEMO} -o tile-zstd --codec zstd --json"),
    Case("tile-jpeg", f"tile {DEMO} -o tile-jpeg --codec jpeg --quality 80 --min-tissue 0.4 --json"),
    Case("tile-passthrough", f"tile {DEMO} -o tile-passthrough --codec passthrough --scores none --json"),
    Case("tile-coarse", f"tile {DEMO} -o tile-coarse --mpp 2 --background skip --json"),
    Case("tile-overlap", f"tile {DEMO} -o tile-overlap --tile-size 512 --overlap 64 --scores sharpness,haematoxylin"),
    *both("tile-grid", "tile demo.svs -o tile-overlap --grid half --tile-size 128 --json", "tile-overlap"),
    Case("tile-drawn", f"tile {DEMO} -o tile-drawn --tissue tissue/demo.tissue.geojson --json", ("tissue",)),
    Case("tile-robust", f"tile {DEMO} -o tile-robust --tissue robust --background skip --json"),
    Case("tile-none", f"tile {DEMO} -o tile-none --tissue none --json"),
    Case("tile-large", "tile data/slides/crc01_he_left.tif -o tile-large --slide-mpp 0.65 --mpp 2.6 --json"),
    Case("tile-copied", "tile data/slides/crc01_he_left.tif -o tile-copied --slide-mpp 0.65 --background skip --json"),
    Case("tile-dicom", f"tile {DICOM} -o tile-dicom --json --min-tissue 0"),
    Case("tile-plain", f"tile {PLAIN} -o tile-plain --slide-mpp 0.5 --json"),
    Case("tile-broken", "tile data/slides/truncated.svs data/slides/not_a_tiff.svs nothing.svs -o tile-broken --json"),
    Case("tile-refused", f"tile {DEMO} -o tile --codec zstd --json", ("tile",)),
    Case("tile-overwrite", f"tile {DEMO} -o tile-zstd --codec jpeg --overwrite --json", ("tile-zstd",)),
    Case(
        "verify",
        "verify tile/demo.zarr tile-jpeg/demo.zarr tile-overlap/demo.zarr schema2.zarr --json",
        ("tile", "tile-jpeg", "tile-grid"),
    ),
    Case("tissue-store", "tissue tile-coarse/demo.zarr -o tissue-store --json", ("tile-coarse",)),
    Case("verify-fast", "verify tile tile-coarse --fast --json", ("tile", "tile-coarse")),
    Case("verify-text", "verify tile tile-coarse", ("tile", "tile-coarse")),
    *both("predict", f"predict {DEMO} -o predict --heatmap --json --device cpu"),
    Case("predict-text", f"predict {DEMO} tile-coarse/demo.zarr --device cpu", ("tile-coarse",)),
    Case("predict-store", "predict tile/demo.zarr -o predict-store --heatmap --json --device cpu", ("tile",)),
    Case(
        "predict-coarse",
        "predict tile-coarse/demo.zarr schema2.zarr -o predict-coarse --heatmap --json --device cpu",
        ("tile-coarse",),
    ),
    Case("predict-dropout", f"predict {DEMO} -o predict-dropout --mc-dropout 3 --refer-above 0.1 --json --device cpu"),
    Case("predict-exhaustive", f"predict {DEMO} -o predict-exhaustive --exhaustive --heatmap --json --device cpu"),
    Case("predict-large", "predict data/slides/crc01_he_left.tif -o predict-large --slide-mpp 0.65 --heatmap --json"),
    Case("predict-fungi", "predict fungi.csv -m fungi -o predict-fungi --heatmap --json --device cpu"),
    Case("predict-outside", "predict data/images/tcga_tiles -m fungi -o predict-outside --slide-mpp 1 --json"),
    Case(
        "predict-allowed",
        "predict data/images/tcga_tiles -m fungi -o predict-allowed --slide-mpp 1 --json --allow-out-of-distribution",
    ),
    Case("predict-broken", f"predict data/slides/truncated.svs {DEMO} data/slides/ndpi_dapi.ndpi --json"),
    Case("predict-refused", f"predict {DEMO} -o predict --mc-dropout 2 --json --device cpu", ("predict",)),
    Case("evaluate-shipped", "evaluate fungi fungi.csv --split all --report evaluate-shipped --mc-dropout 2 --json"),
    *both("heatmap", "heatmap predict/demo.prediction.json -o heatmap --contact-sheet 6 --json", "predict"),
    Case(
        "heatmap-evidence",
        "heatmap predict/demo.prediction.json -o heatmap-evidence --of uncertainty --as value "
        "--size 700 --colours inferno",
        ("predict",),
    ),
    Case("heatmap-tissue", "heatmap tile/demo.zarr -o heatmap-tissue --of tissue", ("tile",)),
    Case("heatmap-old", "heatmap schema-1.prediction.json -o heatmap-old --slide demo.svs --json"),
    Case("heatmap-exhaustive", "heatmap predict-exhaustive -o heatmap-exhaustive --json", ("predict-exhaustive",)),
    Case("heatmap-store", "heatmap tile/demo.zarr -o heatmap-store --of score:sharpness --opacity 0.9", ("tile",)),
    Case(
        "heatmap-grid",
        "heatmap tile-overlap/demo.zarr -o heatmap-grid --of score:sharpness --grid half",
        ("tile-grid",),
    ),
    Case("heatmap-refused", "heatmap predict/demo.prediction.json -o heatmap --size 300", ("heatmap",)),
    *exports(),
    *training("train-attention", "cells.csv", "deep-attention", SMALL),
    *both(
        "train-predict",
        "predict data/boxes/wbc/images/d1_002.png data/boxes/wbc/images/d1_003.png --json "
        "-m train-attention/run -o train-predict --heatmap --allow-out-of-distribution",
        "train-attention",
    ),
    Case(
        "train-attention-again",
        f"train cells.csv -o train-attention/run {SMALL} --json",
        ("train-attention",),
        f"train deep-attention cells.csv -o train-attention/run {SMALL} --json",
    ),
    Case(
        "train-attention-refused",
        f"train cells.csv -o train-attention/run {SMALL} --clip 2 --json",
        ("train-attention",),
        f"train deep-attention cells.csv -o train-attention/run {SMALL} --clip 2 --json",
    ),
    *training("train-cnn", "cells.csv", "cnn", f"{TINY} --coarse-factor 4 --loss focal --resample balanced"),
    *training("train-cross", "chest.csv", "dual-cross", f"{TINY} --coarse-factor 4"),
    *training("train-global", "chest.csv", "global-spatial", f"{TINY} --view-size 64 --map-by anchor --anchors 4"),
    Case("train-map", "export train-global/run --to attention-map -o train-map/", ("train-global",)),
    *training("train-care", "cells.csv", "deep-attention", f"{SMALL} --care boxes --rare-classes monocyte"),
    *training("train-folds", "patients.csv", "deep-attention", f"{SMALL} --folds 2 --colour 0.5 --scale 0.1"),
    *training(
        "train-stores", "stores.csv", "deep-attention", f"{SMALL} --mpp 2 --tissue otsu --prior scores --cache-mb 8"
    ),
    *training("train-masks", "nuclei.csv", "joint-segmentation", f"{TINY} --crop 64 --mpp 1"),
    *training("train-masks-warped", "nuclei.csv", "joint-segmentation", f"{TINY} --crop 64 --mpp 1 --warp 0.5"),
    *both("segment", f"segment {DEMO} -m train-masks/run -o segment --tile 256 --overlap 64 --json", "train-masks"),
    Case(
        "segment-images",
        "segment data/segment/dsb2018/images/a1f50f101bc471e2.png -m train-masks/run --slide-mpp 1 "
        "-o segment-images --as-annotations --simplify 1 --tile 64 --overlap 32 --json",
        ("train-masks",),
    ),
    Case(
        "segment-store",
        "segment tile-copy/demo.zarr -m train-masks/run -o segment-store --tile 256 --overlap 64 --into-store --json",
        ("train-masks",),
    ),
    Case(
        "segment-coarse",
        "segment tile-coarse/demo.zarr -m train-masks/run -o segment-coarse --json",
        ("train-masks", "tile-coarse"),
    ),
    Case(
        "segment-refused",
        f"segment {DEMO} -m train-masks/run -o segment --tile 256 --overlap 64 --simplify 3 --json",
        ("segment",),
    ),
    *both("boxes", "boxes cells.csv -o boxes --json"),
    Case("boxes-images", "boxes data/images/tcga_tiles -o boxes-images"),
    Case(
        "boxes-model",
        "boxes nuclei.csv -o boxes-model --method segmentation -m train-masks/run --json",
        ("train-masks",),
    ),
    Case("models", "models list"),
    Case("models-show", "models show fungi"),
    Case("usage", "tile demo.svs -o usage --tile-size many"),
    Case("usage-url", "tile https://example.org/slide.svs -o usage-url"),
]


def rows_of(index: Path, per_label: int, column: str = "label") -> list[dict[str, str]]:
    """The first rows of each label of an index of the collection."""
    taken: dict[str, list[dict[str, str]]] = {}
    with index.open(newline="") as file:
        for row in csv.DictReader(file):
            found = taken.setdefault(row[column], [])
            if len(found) < per_label:
                found.append(row)
    return [row for rows in taken.values() for row in rows]


def manifest(path: Path, columns: str, rows: list[list[str]]) -> None:
    """Write a manifest."""
    path.write_text("\n".join([columns, *(",".join(row) for row in rows)]) + "\n")


def prepare(folder: Path, data: Path) -> None:
    """Inputs of all cases, below `folder` and with the same relative names for every checkout."""
    folder.mkdir(parents=True)
    (folder / "data").symlink_to(data.resolve())
    tests = HERE / "tests" / "data"
    shutil.copy(tests / "cmu1_small_region.svs", folder / DEMO)
    shutil.copy(tests / "schema-1.prediction.json", folder)
    shutil.copytree(tests / "store_schema2.zarr", folder / "schema2.zarr")
    part = ["train", "train", "val", "train", "val"]
    cells = rows_of(data / "boxes/wbc/index.csv", 5)
    boxes = [
        f"data/boxes/wbc/{r['path']},{r['label']},{part[n % 5]},{r['x1']} {r['y1']} {r['x2']} {r['y2']}"
        for n, r in enumerate(cells)
    ]
    manifest(folder / "cells.csv", "path,label,split,boxes", [[row] for row in boxes])
    patients = [[f"data/boxes/wbc/{r['path']}", r["label"], f"p{n % 5}"] for n, r in enumerate(cells)]
    manifest(folder / "patients.csv", "path,label,patient", patients)
    chest = rows_of(data / "aligned/chest_xray/index.csv", 8)
    manifest(
        folder / "chest.csv",
        "path,label,split",
        [[f"data/aligned/chest_xray/{r['path']}", r["label"], part[n % 5]] for n, r in enumerate(chest)],
    )
    fungi = rows_of(data / "classify/defungi/index.csv", 3)
    manifest(
        folder / "fungi.csv",
        "path,label,split,patient",
        [[f"data/classify/defungi/{r['path']}", r["label"], "test", r["group"]] for r in fungi],
    )
    nuclei = rows_of(data / "segment/dsb2018/index.csv", 5)
    manifest(
        folder / "nuclei.csv",
        "path,mask,label,split,mpp",
        [
            [f"data/segment/dsb2018/{r['path']}", f"data/segment/dsb2018/{r['mask']}", "", part[n % 5], "1"]
            for n, r in enumerate(nuclei)
        ],
    )


def wanted(only: str) -> list[Case]:
    """The named cases with those that they need, in the order of CASES."""
    by_name = {case.name: case for case in CASES}
    names = {n for n in by_name for o in only.split(",") if not only or n == o or n.startswith(f"{o}-")}
    while True:
        more = {need for name in names for need in needs_of(by_name[name])} - names
        if not more:
            return [case for case in CASES if case.name in names]
        names |= more


def needs_of(case: Case) -> tuple[str, ...]:
    """What a case needs, with the stores that its manifest or its copy comes from."""
    implied = {"train-stores": ("tile", "tile-coarse", "tile-jpeg"), "segment-store": ("tile",)}
    return case.needs + implied.get(case.name, ())


def before(case: Case, folder: Path) -> None:
    """Inputs that are output of earlier cases."""
    if case.name == "train-stores":
        stores = [("tile", "a", "train"), ("tile-coarse", "b", "train"), ("tile-jpeg", "a", "val")]
        rows = [[f"{name}/demo.zarr", label, split] for name, label, split in stores] + [[DEMO, "b", "val"]]
        manifest(folder / "stores.csv", "path,label,split", rows)
    if case.name == "segment-store":
        shutil.copytree(folder / "tile/demo.zarr", folder / "tile-copy/demo.zarr")


def run_case(case: Case, checkout: Path, folder: Path) -> None:
    """Run one command and keep its streams and its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "NO_COLOR": "1", "COLUMNS": "120", "LC_ALL": "C.UTF-8"}
    outcomes: list[subprocess.CompletedProcess[bytes]] = []
    for command in filter(None, (case.command, case.otherwise)):
        arguments = [
            name
            for word in shlex.split(command)
            for name in (sorted(str(p.relative_to(folder)) for p in folder.glob(word)) if "*" in word else [word])
        ]
        done = subprocess.run(
            [sys.executable, "-m", "wsi_attn", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        outcomes.append(done)
        if done.returncode != 2:
            break
    else:
        done = outcomes[0]
    streams = folder / STREAMS
    streams.mkdir(exist_ok=True)
    (streams / f"{case.name}.stdout").write_bytes(done.stdout)
    (streams / f"{case.name}.stderr").write_bytes(done.stderr)
    (streams / f"{case.name}.code").write_text(f"{done.returncode}\n")


def run_all(checkout: Path, target: Path, cases: list[Case], data: Path) -> None:
    """All commands of one checkout; both checkouts run in a folder of the same name, since records contain it."""
    folder = target.with_name("run")
    prepare(folder, data)
    for number, case in enumerate(cases, 1):
        print(f"{target.name} {number}/{len(cases)} {case.name}", file=sys.stderr, flush=True)
        before(case, folder)
        run_case(case, checkout, folder)
    (folder / FOLDER).write_text(str(folder))
    folder.rename(target)


def blanked(path: Path, folder: str) -> bytes:
    """The bytes of a file without times, versions and the name of the folder that the commands ran in."""
    raw = path.read_bytes()
    if path.suffix in BINARY and not raw.startswith((b"{", b"[")):
        return raw
    raw = VOLATILE.sub(rb"\1_", raw.replace(folder.encode(), b"."))
    if path.suffix == ".csv":
        raw = without_times(raw)
    return TIMES.sub(b"_", raw) if path.suffix in {".stdout", ".stderr", ".html", ".md"} else raw


def without_times(raw: bytes) -> bytes:
    """A table without the columns that are seconds or rates."""
    rows = list(csv.reader(io.StringIO(raw.decode("utf-8", "replace"))))
    if not rows:
        return raw
    kept = [n for n, name in enumerate(rows[0]) if not re.search(r"second|idle|peak_mb", name)]
    return "\n".join(",".join(row[n] if n < len(row) else "" for n in kept) for row in rows).encode()


def first_difference(old: bytes, new: bytes) -> str:
    """Where two contents part."""
    try:
        return difference_of(json.loads(old), json.loads(new), "") or "layout of the JSON text"
    except ValueError:
        pass
    if b"\0" in old or b"\0" in new:
        offset = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        return f"byte {offset} of {len(old)} and {len(new)}"
    for number, (a, b) in enumerate(zip_longest(old.splitlines(), new.splitlines()), 1):
        if a != b:
            a, b = a or b"", b or b""
            shared = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            near = slice(max(0, shared - 30), shared + 120)
            return f"line {number}: {a[near]!r} -> {b[near]!r}"
    return "line ends"


def difference_of(old: object, new: object, path: str) -> str:
    """The first place in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if key not in old or key not in new:
                return f"{path}.{key} only in {'old' if key in old else 'new'}"
            if found := difference_of(old[key], new[key], f"{path}.{key}"):
                return found
        return "" if list(old) == list(new) else f"{path}: order of keys {list(old)} -> {list(new)}"
    if isinstance(old, list) and isinstance(new, list):
        pairs = enumerate(zip(old, new, strict=False))
        found = next((d for n, (a, b) in pairs if (d := difference_of(a, b, f"{path}[{n}]"))), "")
        return found or ("" if len(old) == len(new) else f"{path}: {len(old)} -> {len(new)} items")
    return "" if old == new and type(old) is type(new) else f"{path}: {str(old)[:120]} -> {str(new)[:120]}"


def files_of(folder: Path) -> set[str]:
    """Every file that the commands wrote, relative to the folder."""
    inputs = {"data", DEMO, "schema2.zarr", "schema-1.prediction.json"}
    found = {
        p.relative_to(folder) for top in folder.iterdir() if top.name not in inputs for p in [top, *top.rglob("*")]
    }
    return {str(path) for path in found if (folder / path).is_file()}


def case_of(name: str) -> str:
    """The case that a file belongs to."""
    top, _, rest = name.partition("/")
    return rest.rpartition(".")[0] if top == STREAMS else top


def compare(old: Path, new: Path, cases: list[Case]) -> int:
    """Print one line per case and each difference; the number of files that differ."""
    table: dict[str, list[str]] = {}
    same: dict[str, int] = {}
    known = {case.name for case in cases if all((f / STREAMS / f"{case.name}.code").exists() for f in (old, new))}
    ran = [(folder / FOLDER).read_text() for folder in (old, new)]
    for name in sorted(files_of(old) | files_of(new)):
        case = case_of(name)
        if case not in known:
            continue
        differences = table.setdefault(case, [])
        if not (new / name).exists() or not (old / name).exists():
            differences.append(f"{name}: only in {'old' if (old / name).exists() else 'new'}")
            continue
        a, b = blanked(old / name, ran[0]), blanked(new / name, ran[1])
        if a == b:
            same[case] = same.get(case, 0) + 1
        else:
            differences.append(f"{name}: {first_difference(a, b)}")
    print(f"{'case':<28} {'identical':>9} {'differs':>8}")
    for case in filter(table.__contains__, (case.name for case in cases)):
        differences = table[case]
        print(f"{case:<28} {same.get(case, 0):>9} {len(differences):>8}")
        shown = differences if len(differences) <= MOST_LINES else differences[: MOST_LINES - 1]
        for line in shown:
            print(f"    {line}")
        if len(shown) < len(differences):
            print(f"    and {len(differences) - len(shown)} more")
    total = sum(map(len, table.values()))
    print(f"{'all':<28} {sum(same.values()):>9} {total:>8}")
    if absent := [case.name for case in cases if case.name not in known]:
        print(f"not run in both: {', '.join(absent)}")
    return total


def main() -> int:
    """Run what is not there yet, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, nargs="?")
    parser.add_argument("new", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, default=COLLECTION)
    parser.add_argument("--work", type=Path, help="keep what the commands write, in FOLDER/old and FOLDER/new")
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    cases = wanted(options.only)
    if options.list:
        print("\n".join(f"{case.name:<28} wsi-attn {case.command}" for case in cases))
        return 0
    with tempfile.TemporaryDirectory() as name:
        work = (options.work or Path(name)).resolve()
        folders = []
        for side, given in (("old", options.old), ("new", options.new)):
            if (given / STREAMS).is_dir():
                folders.append(given.resolve())
            else:
                folders.append(work / side)
                run_all(given.resolve(), work / side, cases, options.data)
        return 1 if compare(*folders, cases) else 0


if __name__ == "__main__":
    raise SystemExit(main())
