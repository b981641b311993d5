"""`wsi-attn verify`: check the integrity of stores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import WorkReport
from wsi_attn.cli.output import Console, data, data_json, expand
from wsi_attn.errors import StoreError
from wsi_attn.options import Option

if TYPE_CHECKING:
    from wsi_attn.data.inputs import Input
    from wsi_attn.slide import Item

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
    console = Console(quiet=report.quiet)

    def work(given: Input, item: Item) -> Iterator[None]:
        verdict = verify_store(given.located(), decode=not depth.fast, progress=item)
        problems = verdict.problems
        state = item.state = "damaged" if problems else "sound"
        yield
        for line in (*verdict.notes, *problems[1:]):
            console.info(line)
        if problems:
            more = f"; one of {len(problems)} problems" if len(problems) > 1 else ""
            console.fail(StoreError(problems[0] + more))
        record = {**vars(verdict), "store": str(verdict.path), "state": state}
        order = ("store", "state", "files", "chunks", "bytes", "problems", "notes")
        data_json({name: record[name] for name in order}) if report.json else data(
            f"{verdict.path}\t{state}\t{verdict.files} files\t{verdict.chunks} chunks\t{len(problems)} problems"
        )

    console.each("verify", inputs, work)


COMMAND = Command("verify", verify)
