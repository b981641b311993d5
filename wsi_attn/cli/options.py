"""Options shared by several commands, as configurations whose fields are options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from wsi_attn.devices import AUTO, DEVICE, resolve_device
from wsi_attn.errors import UsageError
from wsi_attn.geometry import Mpp
from wsi_attn.options import Option
from wsi_attn.outputs.names import check_folder
from wsi_attn.threads import limit_threads

DEBUG = {"on": False}
"""Whether tracebacks are shown; set by `--debug`, read by the error handlers."""

Slides = Annotated[
    list[str],
    typer.Argument(
        metavar="SLIDE",
        help="Slides, images, stores, folders of these, or manifests (.csv) with a column path; "
        "- reads a list of paths from stdin.",
    ),
]


def shipped_models() -> list[str]:
    """Names of the shipped models, for the shell."""
    from wsi_attn.models import zoo

    return list(zoo.shipped_models())


def folder(value: object, option: str) -> None:
    """Check of an option that names an output folder; see `names.check_folder`."""
    check_folder(Path(str(value)), option)


def pixel_size(text: str) -> Mpp:
    """Parse --slide-mpp: one number for both axes, or two."""
    try:
        mpp = Mpp.parse(text)
    except ValueError as error:
        raise UsageError(f"--slide-mpp: {error}") from error
    if not all(0 < axis < 1e4 for axis in mpp):
        raise UsageError(f"--slide-mpp takes one or two positive numbers, X or X,Y, not {text!r}")
    return mpp


@dataclass(frozen=True)
class Talk:
    """What a command says on stderr."""

    quiet: Annotated[bool, Option("Print only errors to stderr.", aliases=("-q",))] = False
    debug: Annotated[bool, Option("Print tracebacks of errors.")] = False

    def __post_init__(self) -> None:
        DEBUG["on"] = DEBUG["on"] or self.debug


@dataclass(frozen=True)
class Report(Talk):
    """Also what it says on stdout."""

    json: Annotated[bool, Option("Print one JSON object per line to stdout.")] = False


@dataclass(frozen=True)
class Work(Talk):
    """A command that computes."""

    threads: Annotated[
        int | None,
        Option(
            "Maximum number of threads for each of reading, decoding and computing.",
            aliases=("--workers",),
            metavar="N",
            at_least=1,
            default="the available CPUs",
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        limit_threads(self.threads)  # Set before a command imports libraries that read their limits at import.


@dataclass(frozen=True)
class WorkReport(Work, Report):
    """A command that computes and has a line for each input."""


@dataclass(frozen=True)
class Write(WorkReport):
    """A command that also writes files."""

    overwrite: Annotated[bool, Option("Replace existing output.")] = False


@dataclass(frozen=True)
class PixelSize:
    """The pixel size of the inputs."""

    slide_mpp: Annotated[
        Mpp | None,
        Option(
            "Pixel size of level 0 in µm/px; overrides that of the file. The column mpp of a manifest overrides both.",
            metavar="X[,Y]",
            parse=pixel_size,
        ),
    ] = None


@dataclass(frozen=True)
class Machine:
    """Where the network of a command runs."""

    device: Annotated[str, DEVICE] = AUTO

    def resolve(self) -> str:
        """The device; see `resolve_device`."""
        return resolve_device(self.device)


OUTPUT = Option("Output folder.", aliases=("-o",), check=folder)


@dataclass(frozen=True)
class Output:
    """The output of a command that always writes."""

    output: Annotated[Path, OUTPUT]


@dataclass(frozen=True)
class Subject:
    """What is drawn or exported, apart from its path."""

    slide: Annotated[Path | None, Option("Path of the slide if it has moved.")] = None
    grid: Annotated[str, Option("Grid of a store whose scores are shown.")] = "default"

    def check(self, found: Sequence[object]) -> None:
        """Refuse --slide with several inputs."""
        if self.slide and len(found) > 1:
            raise UsageError(f"--slide applies to a single input, but {len(found)} were given")
