"""`wsi-attn view`: show slides and predictions in a local browser."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import PixelSize, Work
from wsi_attn.cli.output import Console, data, expand
from wsi_attn.errors import UsageError
from wsi_attn.options import Option, check_fields

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH",
        help="Slides, stores, predictions, GeoJSON files, folders of these, or manifests (.csv); - reads a list of "
        "paths from stdin.",
    ),
]


@dataclass(frozen=True)
class Server:
    """Where the pages are served, and to whom."""

    host: Annotated[str, Option("Address to listen on; an address that other machines can reach requires a token.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Option("Port to listen on; 0 selects a free port.", at_least=0, at_most=65535)] = 8765
    token: Annotated[bool, Option("Require a token also for local access, for machines with several users.")] = False
    allowed_host: Annotated[
        tuple[str, ...],
        Option(
            "Further name that the Host header of requests may have, such as that of a reverse proxy. Repeat it for "
            "several.",
            metavar="NAME",
        ),
    ] = ()
    root_path: Annotated[
        str,
        Option("Path under which a reverse proxy offers the viewer; the proxy may remove it or not.", metavar="/PATH"),
    ] = ""
    open_browser: Annotated[
        bool | None,
        Option("Open a browser or not.", name="--open/--no-open", default="only if stdout is a terminal"),
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.root_path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?", self.root_path):
            raise UsageError(
                f"--root-path {self.root_path}: must be a path such as /slides, of letters, digits and . _ ~ -"
            )
        for host in self.allowed_host:
            if not re.fullmatch(r"[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\]", host):
                raise UsageError(f"--allowed-host {host}: must be a name without scheme, port and path")


def view(paths: Inputs, server: Server, pixels: PixelSize, work: Work) -> None:
    """Show slides, heatmaps and outlines in a browser. Prints the address once the server runs; Ctrl-C stops it."""
    from wsi_attn.viewer.collection import collect
    from wsi_attn.viewer.serve import serve

    console = Console(quiet=work.quiet)
    given = expand(paths, lambda folder: [folder])
    usable = [one for one in given if one.problem is None]
    problems = [one.problem for one in given if one.problem is not None]
    if problems and not usable:
        raise problems[0]
    collection = collect([one.path for one in usable], {one.path: one.mpp for one in usable if one.mpp})
    for problem in (*problems, *collection.problems):
        console.fail(problem)

    def ready(address: str) -> None:
        data(address)
        console.info(f"{len(collection.entries)} slides; press Ctrl-C to stop")
        if sys.stdout.isatty() if server.open_browser is None else server.open_browser:
            import webbrowser

            webbrowser.open(address)

    serve(
        collection,
        host=server.host,
        port=server.port,
        needs_token=server.token,
        allowed_hosts=server.allowed_host,
        root_path=server.root_path.rstrip("/"),
        slide_mpp=pixels.slide_mpp,
        workers=work.threads,
        on_ready=ready,
    )


COMMAND = Command("view", view)
