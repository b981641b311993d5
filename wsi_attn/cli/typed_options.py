"""Options of the commands that are not yet made from configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from wsi_attn.cli.options import DEBUG, pixel_size, shipped_models
from wsi_attn.geometry import Mpp
from wsi_attn.outputs.names import check_folder
from wsi_attn.threads import limit_threads


def _debug(value: bool) -> bool:
    DEBUG["on"] = DEBUG["on"] or value
    return value


def _limit_threads(limit: int | None) -> int | None:
    limit_threads(limit)  # Set before a command imports libraries that read their limits at import.
    return limit


def check_folder_option(parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """Callback of options that name an output folder; see `files.check_folder`."""
    if path is not None:
        check_folder(path, parameter.opts[0])
    return path


def starting(*values: str) -> Callable[[str], list[str]]:
    """Return a shell completion with these values; other values are accepted as well."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


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
    return None if text is None else pixel_size(text)


def completed_models(incomplete: str) -> list[str]:
    """Complete the names of shipped models."""
    return starting(*shipped_models())(incomplete)


OutputFolder = Annotated[Path, typer.Option("--output", "-o", callback=check_folder_option, help="Output folder.")]
