"""`wsi-attn verify`: check the integrity of stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import WorkReport
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.errors import StoreError, WsiAttnError
from wsi_attn.options import Option

Stores = Annotated[
    list[str],
    typer.Argument(
        metavar="STORE", help="Stores, folders of stores or manifests (.csv); - reads a list of paths from stdin."
    ),
]


@dataclass(frozen=True)
class Depth:
    """How thoroughly stores are checked."""

    fast: Annotated[bool, Option("Check only sizes and checksums; do not decode pixels.")] = False


def verify(stores: Stores, depth: Depth, report: WorkReport) -> None:
    """Check every file of stores and report missing, foreign and damaged files."""
    from wsi_attn.data.inputs import stores_in
    from wsi_attn.store.verify import verify_store

    inputs = expand(stores, stores_in, "store")
    console = Console(quiet=report.quiet, total=len(inputs))
    with console.progress("verify") as progress:
        for number, given in enumerate(inputs, 1):
            try:
                path = given.located()
                with progress.item(number, len(inputs), path.name) as item:
                    verdict = verify_store(path, decode=not depth.fast, progress=item)
                    item.state = "damaged" if verdict.problems else "sound"
            except WsiAttnError as error:
                console.fail(error)
                continue
            state = "damaged" if verdict.problems else "sound"
            for line in (*verdict.notes, *verdict.problems[1:]):
                console.info(line)
            if verdict.problems:
                more = f"; one of {len(verdict.problems)} problems" if len(verdict.problems) > 1 else ""
                console.fail(StoreError(verdict.problems[0] + more))
            record = {
                "store": str(path),
                "state": state,
                "files": verdict.files,
                "chunks": verdict.chunks,
                "bytes": verdict.bytes,
                "problems": list(verdict.problems),
                "notes": list(verdict.notes),
            }
            data_json(record) if report.json else data(
                f"{path}\t{state}\t{verdict.files} files\t{verdict.chunks} chunks\t{len(verdict.problems)} problems"
            )
    raise typer.Exit(console.exit_code())


COMMAND = Command("verify", verify)
