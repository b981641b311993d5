"""Options that several commands share, each spelled once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from wsi_attn.errors import UsageError
from wsi_attn.geometry import Mpp
from wsi_attn.threads import limit_threads

DEBUG = {"on": False}
"""Whether tracebacks are shown; set by the option, read where errors end."""


def _debug(value: bool) -> bool:
    DEBUG["on"] = DEBUG["on"] or value
    return value


def _limit_threads(limit: int | None) -> int | None:
    limit_threads(limit)  # here, before a command imports the libraries that read their limits when they are loaded
    return limit


def starting(*values: str) -> Callable[[str], list[str]]:
    """Shell completion of an option with these values; other values are accepted, too."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def shipped_models(incomplete: str) -> list[str]:
    """Shell completion of the shipped models' names."""
    from wsi_attn.models import zoo

    return starting(*zoo.shipped_models())(incomplete)


Slides = Annotated[
    list[str],
    typer.Argument(
        metavar="SLIDE",
        help="Slides, images or stores; folders of them; manifests (.csv) with a column path; - reads a list of these "
        "from stdin.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_debug)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace output that is in the way.")]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        "--workers",
        metavar="N",
        min=1,
        callback=_limit_threads,
        help="Most threads of each kind: reading, decoding, computing; by default as many as CPUs may be used.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
McDropout = Annotated[
    int,
    typer.Option(
        "--mc-dropout", metavar="N", min=0, help="Passes with dropout that uncertainty is drawn from; 0 is none."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        "--gpus",
        help="auto, cpu, cuda or cuda:N. A number N alone means cuda:N, or cpu where there is no CUDA device; -1 means "
        "cpu.",
        autocompletion=starting("auto", "cpu", "cuda"),
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")]
SlideMpp = Annotated[
    str | None,
    typer.Option(
        "--slide-mpp",
        metavar="X[,Y]",
        help="Pixel size of level 0, µm; wins over the slide's own. A pixel size in a manifest (column mpp) wins over "
        "both.",
    ),
]


def parse_slide_mpp(text: str | None) -> Mpp | None:
    """The value of --slide-mpp: one number for both axes, or two."""
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
    """The device to run on.

    `auto` means CUDA where there is a CUDA device, else the CPU; so does a number, which selects a CUDA device.

    Raises
    ------
    UsageError : there is no such device.
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
        raise UsageError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices here")
    if wanted.type not in ("cpu", "cuda"):
        raise UsageError(f"--device takes auto, cpu, cuda or cuda:N, not {device!r}")
    return device
