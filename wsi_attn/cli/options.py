"""Options shared by several commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from wsi_attn.errors import UsageError
from wsi_attn.geometry import Mpp
from wsi_attn.outputs.names import check_folder
from wsi_attn.threads import limit_threads

DEBUG = {"on": False}
"""Whether tracebacks are shown; set by `--debug`, read by the error handlers."""


def _debug(value: bool) -> bool:
    DEBUG["on"] = DEBUG["on"] or value
    return value


def _limit_threads(limit: int | None) -> int | None:
    limit_threads(limit)  # Set before a command imports libraries that read their limits at import.
    return limit


def check_folder_option(parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """Callback of options that name an output folder; see `names.check_folder`."""
    if path is not None:
        check_folder(path, parameter.opts[0])
    return path


def starting(*values: str) -> Callable[[str], list[str]]:
    """Return a shell completion with these values; other values are accepted as well."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def shipped_models(incomplete: str) -> list[str]:
    """Complete the names of shipped models."""
    from wsi_attn.models import zoo

    return starting(*zoo.shipped_models())(incomplete)


Slides = Annotated[
    list[str],
    typer.Argument(
        metavar="SLIDE",
        help="Slides, images, stores, folders of these, or manifests (.csv) with a column path; "
        "- reads a list of paths from stdin.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors to stderr.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line to stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print tracebacks of errors.", callback=_debug)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        "--workers",
        metavar="N",
        min=1,
        callback=_limit_threads,
        help="Maximum number of threads for each of reading, decoding and computing; by default the available CPUs.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Random seed.")]
McDropout = Annotated[
    int,
    typer.Option(
        "--mc-dropout",
        metavar="N",
        min=0,
        help="Number of Monte-Carlo dropout passes for uncertainty; 0 disables them.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        "--gpus",
        help="auto, cpu, cuda or cuda:N. auto uses CUDA if available. A number N means cuda:N, or cpu without a CUDA "
        "device; -1 means cpu.",
        autocompletion=starting("auto", "cpu", "cuda"),
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", callback=check_folder_option, help="Output folder.")]
SlideMpp = Annotated[
    str | None,
    typer.Option(
        "--slide-mpp",
        metavar="X[,Y]",
        help="Pixel size of level 0 in µm/px; overrides that of the file. The column mpp of a manifest overrides both.",
    ),
]


def parse_slide_mpp(text: str | None) -> Mpp | None:
    """Parse --slide-mpp: one number for both axes, or two."""
    if text is None:
        return None
    try:
        mpp = Mpp.parse(text)
    except ValueError as error:
        raise UsageError(f"--slide-mpp: {error}") from error
    if not all(0 < axis < 1e4 for axis in mpp):
        raise UsageError(f"--slide-mpp takes one or two positive numbers, X or X,Y, not {text!r}")
    return mpp


def resolve_device(device: str) -> str:
    """Return the device to run on.

    `auto` is CUDA if available, otherwise the CPU; a number selects a CUDA device, or the CPU without CUDA.

    Raises
    ------
    UsageError : the device does not exist.
    """
    import torch

    if device == "-1" or (device.isdecimal() and not torch.cuda.is_available()):
        return "cpu"
    if device.isdecimal():
        device = f"cuda:{device}"
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"--device takes auto, cpu, cuda or cuda:N, not {device!r}") from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices")
    if wanted.type not in ("cpu", "cuda"):
        raise UsageError(f"--device takes auto, cpu, cuda or cuda:N, not {device!r}")
    return device
