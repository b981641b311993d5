"""Inputs of a command: slides, stores and images, given one by one, as folders, as manifests, or as a list on stdin.

`expand` is the only place that decides what an argument stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_attn.data.manifest import read_slides
from wsi_attn.data.sources import open_images, open_source
from wsi_attn.errors import ManifestError, SlideNotFoundError, SlideUnsupportedError, WsiAttnError
from wsi_attn.files import url_scheme
from wsi_attn.geometry import Mpp
from wsi_attn.slide import Slide, name_of
from wsi_attn.slides.dicom_series import SeriesIndex, one_per_series, series_in, series_of
from wsi_attn.store.schema import read_meta

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide", ".dcm", ".czi"}
    | {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
)
"""Files of a folder that count as slides or images; a file that is named itself may have any suffix."""

OWN_PICTURES = (".heatmap.png", ".patches.png", ".tissue.png", ".legend.png", ".overlay.png")
"""Pictures that wsi-attn draws, which often lie beside the slides that they show."""

STDIN = "-"
MANIFEST = ".csv"

Finder = Callable[[Path], list[Path]]
"""The inputs that a folder stands for, sorted; none where it holds none."""


@dataclass(frozen=True)
class Input:
    """One input of a command.

    Attributes
    ----------
    path
        The slide, store or image; of several images that form one field, the first.
    mpp
        Pixel size of level 0 that a manifest gives, µm.
    images
        The images of one field, in order; empty for a single file.
    left_out
        Further paths that were given for the same DICOM series.
    problem
        Why the input cannot be used: a row of a manifest that names no file, a folder without slides, a URL.
    """

    path: Path
    mpp: Mpp | None = None
    images: tuple[Path, ...] = ()
    problem: WsiAttnError | None = None
    left_out: tuple[Path, ...] = ()

    def located(self) -> Path:
        """The one path of the input.

        Raises
        ------
        WsiAttnError : `problem`, or the input is a field of several images.
        """
        if self.problem is not None:
            raise self.problem
        if len(self.images) > 1:
            raise ManifestError(f"{self.path} is one of {len(self.images)} images of a field; name a single image")
        return self.path

    def open(self, slide_mpp: Mpp | None = None) -> Slide:
        """Open the input.

        Parameters
        ----------
        slide_mpp
            Pixel size of level 0, µm, for inputs without a pixel size in a manifest; wins over the file's own.

        Raises
        ------
        WsiAttnError : `problem`, or the errors of `open_source`.
        """
        mpp = self.mpp or slide_mpp
        if self.problem is None and len(self.images) > 1:
            return open_images(self.images, mpp)
        return open_source(self.located(), mpp)


def slides_in(folder: Path) -> list[Path]:
    """Slides, images and stores of a folder, sorted by name; of its subfolders only those that are DICOM series.

    A store is left out where a slide of the same name lies beside it: both show the same slide.
    """
    files = sorted(folder.iterdir())
    slides = one_per_series([*(file for file in files if is_slide_file(file)), *series_below(folder)])
    names = {name_of(file) for file in slides} | {series.name for file in slides if (series := series_of(file))}
    return sorted([*slides, *(file for file in files if is_store(file) and name_of(file) not in names)])


def series_below(folder: Path) -> list[Path]:
    """The DICOM series in the subfolders of a folder, each by the file of its largest level, sorted."""
    found = []
    for subfolder in sorted(folder.iterdir()):
        if subfolder.is_dir() and not subfolder.name.startswith(".") and not (subfolder / "zarr.json").exists():
            with suppress(PermissionError):
                found += [series.main for series in series_in(subfolder)]
    return found


def stores_in(folder: Path) -> list[Path]:
    """Stores of a folder, sorted by name; subfolders are not searched."""
    return [file for file in sorted(folder.iterdir()) if is_store(file)]


def is_slide_file(path: Path) -> bool:
    """Whether a file of a folder counts as a slide or image: by its suffix, hidden files and own pictures excepted."""
    known = path.suffix.lower() in SLIDE_SUFFIXES and not path.name.endswith(OWN_PICTURES)
    return known and not path.name.startswith(".") and path.is_file()


def is_store(path: Path) -> bool:
    """Whether a path is a store of tiles, complete or not."""
    if path.name.startswith(".") or not (path / "zarr.json").is_file():
        return False
    try:
        read_meta(path)
    except WsiAttnError:
        return False
    return True


def expand(
    arguments: Iterable[str], stdin: Callable[[], bytes], find: Finder = slides_in, what: str = "slide, image or store"
) -> list[Input]:
    """The inputs that arguments of the command line stand for.

    Parameters
    ----------
    arguments
        Paths of files and stores; folders; manifests (`.csv`), whose paths are relative to the manifest; `-` for a
        list of any of these on stdin.
    stdin
        Reads the list; called at most once.
    find
        What a folder that is no store stands for.
    what
        What `find` looks for, for the message of a folder that holds none.

    Returns
    -------
    Inputs in order, a DICOM series once. What cannot be used is an input with a `problem`, so that it does not stop
    the others.
    """
    inputs: list[Input] = []
    for argument in arguments:
        names = read_list(stdin()) if argument == STDIN else [argument]
        for name in names:
            inputs.extend(_expand_one(name, find, what))
    return _without_repeated_series(inputs)


def _without_repeated_series(inputs: list[Input]) -> list[Input]:
    index = SeriesIndex()
    kept: list[Input] = []
    places: dict[Path, int] = {}
    for each in inputs:
        series = index.of(each.path) if each.problem is None and len(each.images) < 2 else None
        if series is None:
            kept.append(each)
            continue
        place = places.setdefault(series.main.resolve(), len(kept))
        if place == len(kept):
            kept.append(each)
        else:
            left_out = (*kept[place].left_out, each.path)
            kept[place] = replace(kept[place], left_out=left_out)
    return kept


def read_list(data: bytes) -> list[str]:
    """Paths of a list: one a line, or separated by NUL as `find -print0` writes them; a byte-order mark is skipped."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = data.decode(encoding, "surrogateescape")  # as Python decodes the names of files
    if "\0" in text:
        return [name for name in text.split("\0") if name.strip()]
    return [line.strip() for line in text.splitlines() if line.strip()]


def _expand_one(name: str, find: Finder, what: str) -> list[Input]:
    path = Path(name)
    if scheme := url_scheme(name):
        return [
            Input(
                path,
                problem=SlideUnsupportedError(
                    f"Cannot open {name}: {scheme} URLs are not supported; download the file or mount its storage"
                ),
            )
        ]
    try:
        if path.suffix.lower() == MANIFEST and path.is_file():
            return _rows(path)
        if path.is_dir() and not (path / "zarr.json").exists() and path.suffix != ".zarr":
            found = find(path)
            if not found:
                raise SlideNotFoundError(f"There is no {what} in the folder {path}")
            return [Input(file) for file in found]
    except WsiAttnError as error:
        return [Input(path, problem=error)]
    except OSError as error:
        return [Input(path, problem=SlideUnsupportedError(f"Cannot read {path}: {error.strerror or error}"))]
    return [Input(path)]


def _rows(manifest: Path) -> list[Input]:
    return [
        Input(manifest, problem=row) if isinstance(row, ManifestError) else Input(row.path, row.mpp, row.paths)
        for row in read_slides(manifest)
    ]
