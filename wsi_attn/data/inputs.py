"""Inputs of a command: slides, stores and images, as single paths, folders, manifests, or a list on stdin.

`expand` is the only place that interprets command-line arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_attn.data.manifest import read_slides
from wsi_attn.data.sources import open_images
from wsi_attn.errors import ManifestError, SlideNotFoundError, SlideUnsupportedError, WsiAttnError
from wsi_attn.geometry import Mpp
from wsi_attn.outputs.names import url_scheme
from wsi_attn.slide import Slide, name_of
from wsi_attn.slides.dicom_series import SeriesIndex, one_per_series, series_in, series_of
from wsi_attn.slides.reader import slide_suffixes
from wsi_attn.store.schema import read_meta

OWN_PICTURES = (".heatmap.png", ".patches.png", ".tissue.png", ".legend.png", ".overlay.png")
"""Suffixes of images that wsi-attn draws, often beside the slides."""

STDIN = "-"
MANIFEST = ".csv"

Finder = Callable[[Path], list[Path]]
"""Returns the sorted inputs in a folder."""


@dataclass(frozen=True)
class Input:
    """One input of a command.

    Attributes
    ----------
    path
        The slide, store or image; the first image of a field of several.
    mpp
        Pixel size of level 0 from a manifest, µm.
    images
        Images of one field, in order; empty for a single file.
    left_out
        Further paths given for the same DICOM series.
    problem
        Reason why the input cannot be used: a manifest row whose file is missing, a folder without slides, a URL.
    """

    path: Path
    mpp: Mpp | None = None
    images: tuple[Path, ...] = ()
    problem: WsiAttnError | None = None
    left_out: tuple[Path, ...] = ()

    def located(self) -> Path:
        """Return the single path of the input.

        Raises
        ------
        WsiAttnError : the input has a `problem`, or is a field of several images.
        """
        if self.problem is not None:
            raise self.problem
        if len(self.images) > 1:
            raise ManifestError(
                f"{self.path} belongs to a field of {len(self.images)} images; this command takes single images"
            )
        return self.path

    def open(self, slide_mpp: Mpp | None = None) -> Slide:
        """Open the input.

        Parameters
        ----------
        slide_mpp
            Pixel size of level 0, µm, for inputs without one in a manifest; overrides that of the file.

        Raises
        ------
        WsiAttnError : the input has a `problem`, or `open_images` fails.
        """
        if self.problem is not None:
            raise self.problem
        return open_images(self.images or (self.path,), self.mpp or slide_mpp)


def slides_in(folder: Path) -> list[Path]:
    """Return slides, images and stores in a folder, sorted by name, and DICOM series in its subfolders.

    A store beside a slide of the same name is omitted, because both show the same slide.
    """
    files = sorted(folder.iterdir())
    slides = one_per_series([*(file for file in files if is_slide_file(file)), *series_below(folder)])
    names = {name_of(file) for file in slides} | {series.name for file in slides if (series := series_of(file))}
    return sorted([*slides, *(file for file in files if is_store(file) and name_of(file) not in names)])


def series_below(folder: Path) -> list[Path]:
    """Return the DICOM series in subfolders, sorted, each as the file of its largest level."""
    found = []
    for subfolder in sorted(folder.iterdir()):
        with suppress(OSError):  # Without the permission to read it, it holds nothing for this user.
            if subfolder.is_dir() and not subfolder.name.startswith(".") and not (subfolder / "zarr.json").exists():
                found += [series.main for series in series_in(subfolder)]
    return found


def stores_in(folder: Path) -> list[Path]:
    """Return the stores in a folder, sorted by name; subfolders are not searched."""
    return [file for file in sorted(folder.iterdir()) if is_store(file)]


def is_slide_file(path: Path) -> bool:
    """Return whether a file has a slide or image suffix, is not hidden and was not drawn by wsi-attn."""
    known = path.suffix.lower() in slide_suffixes() and not path.name.endswith(OWN_PICTURES)
    return known and not path.name.startswith(".") and path.is_file()


def is_store(path: Path) -> bool:
    """Return whether a path is a store, complete or incomplete."""
    if path.name.startswith("."):
        return False
    try:
        if not (path / "zarr.json").is_file():
            return False
        read_meta(path)
    except (WsiAttnError, OSError):  # Another group, or no permission to read it.
        return False
    return True


def expand(
    arguments: Iterable[str], stdin: Callable[[], bytes], find: Finder = slides_in, what: str = "slide, image or store"
) -> list[Input]:
    """Expand command-line arguments to inputs.

    Parameters
    ----------
    arguments
        Paths of files and stores; folders; manifests (`.csv`), whose paths are relative to the manifest; `-` for a
        list of any of these on stdin.
    stdin
        Reads the list; called at most once.
    find
        Returns the inputs in a folder that is not a store.
    what
        Description of what `find` looks for, for error messages.

    Returns
    -------
    Inputs in order, each DICOM series once. An unusable argument becomes an input with a `problem`, so that it
    does not stop the others.
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
    """Split a list of paths, one per line or separated by NUL as by `find -print0`; a byte-order mark is skipped."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = data.decode(encoding, "surrogateescape")  # As Python decodes file names.
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
                hint = "; its subfolders are not searched, name them instead" if _has_folders(path) else ""
                raise SlideNotFoundError(f"no {what} in the folder {path}{hint}")
            return [Input(file) for file in found]
    except WsiAttnError as error:
        return [Input(path, problem=error)]
    except OSError as error:
        return [Input(path, problem=SlideUnsupportedError(f"Cannot read {path}: {error.strerror or error}"))]
    return [Input(path)]


def _has_folders(path: Path) -> bool:
    return any(each.is_dir() and not each.name.startswith(".") for each in path.iterdir())


def _rows(manifest: Path) -> list[Input]:
    return [
        Input(manifest, problem=row) if isinstance(row, ManifestError) else Input(row.path, row.mpp, row.paths)
        for row in read_slides(manifest)
    ]
