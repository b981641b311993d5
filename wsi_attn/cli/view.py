"""`wsi-attn view`: show slides and predictions in a local browser."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from wsi_attn.cli.options import Debug, Quiet, SlideMpp, Threads, parse_slide_mpp
from wsi_attn.cli.output import Console, data, expand

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH",
        help="Slides, stores, predictions, GeoJSON files, folders of these, or manifests (.csv); - reads a list of "
        "paths from stdin.",
    ),
]
Host = Annotated[
    str, typer.Option("--host", help="Address to listen on; an address that other machines can reach requires a token.")
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 selects a free port.")]
Token = Annotated[
    bool, typer.Option("--token", help="Require a token also for local access, for machines with several users.")
]
Open = Annotated[
    bool | None,
    typer.Option("--open/--no-open", help="Open a browser or not; by default only if stdout is a terminal."),
]


def view(
    paths: Inputs,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    token: Token = False,
    open_browser: Open = None,
    slide_mpp: SlideMpp = None,
    threads: Threads = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show slides, heatmaps and outlines in a browser. Prints the address once the server runs; Ctrl-C stops it."""
    from wsi_attn.viewer.collection import collect
    from wsi_attn.viewer.serve import serve

    console = Console(quiet=quiet)
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
        if sys.stdout.isatty() if open_browser is None else open_browser:
            import webbrowser

            webbrowser.open(address)

    serve(
        collection,
        host=host,
        port=port,
        needs_token=token,
        slide_mpp=parse_slide_mpp(slide_mpp),
        workers=threads,
        on_ready=ready,
    )
