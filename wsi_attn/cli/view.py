"""`wsi-attn view`: slides and what was predicted of them, in the browser of this machine."""

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
        help="Slides, stores, predictions or GeoJSON files, folders of them, or manifests (.csv); - reads a list of "
        "these from stdin.",
    ),
]
Host = Annotated[
    str, typer.Option("--host", help="Address to listen on; one that others can reach makes a token necessary.")
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
Token = Annotated[
    bool, typer.Option("--token", help="Ask for a token on this machine too: for machines of several users.")
]
Open = Annotated[
    bool | None,
    typer.Option("--open/--no-open", help="Open the browser, or not; by default where stdout is a terminal."),
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
    """Show slides, heatmaps and outlines in a browser; prints the address when it answers, ends with Ctrl-C."""
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
        console.info(f"{len(collection.entries)} slides; Ctrl-C ends the viewer")
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
