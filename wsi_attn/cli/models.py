"""`wsi-attn models`: list the shipped models, show their cards, and rebuild them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import typer

from wsi_attn.cli.command import Command, Group
from wsi_attn.cli.options import Output, Work
from wsi_attn.cli.output import Console, data, data_json
from wsi_attn.options import Option

Name = Annotated[str, typer.Argument(help="Name of a shipped model, a run folder or a checkpoint folder.")]
Recipe = Annotated[str, typer.Argument(help="Name of a shipped model.")]


@dataclass(frozen=True)
class Listing:
    """What `models list` prints."""

    json: Annotated[bool, Option("Print one JSON object per line to stdout.")] = False


@dataclass(frozen=True)
class Rebuild(Output):
    """What `models build` reads and writes."""

    data_folder: Annotated[Path, Option("Data set folder with the subfolders segment/ and classify/.", name="--data")]


def group() -> Group:
    """The commands about models; without one of them, the list."""
    typed = typer.Typer(
        name="models",
        cls=Group,
        help="List the shipped models, show a model card, or rebuild a model.",
        rich_markup_mode=None,
        add_completion=False,
    )
    typed.callback(invoke_without_command=True)(_default)
    found = cast(Group, typer.main.get_command(typed))
    for command in (Command("list", list_models), Command("show", show), Command("build", build)):
        found.add_command(command)
    return found


def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_models(Listing())


def list_models(listing: Listing) -> None:
    """List the shipped models."""
    from wsi_attn.models.zoo import DEFAULT, read_specs

    for name, config in read_specs().items():
        spec = config["spec"]
        record = {
            "name": name,
            "default": name == DEFAULT,
            "system": config["system"],
            "labels": spec["labels"],
            "mpp": spec["mpp"],
            "stain": spec["stain"],
        }
        resolution = f"{spec['mpp']:g} µm/px" if spec["mpp"] else "any pixel size"
        labels = ", ".join(spec["labels"])
        data_json(record) if listing.json else data(
            f"{name}\t{config['system']}\t{spec['stain']}\t{resolution}\t{labels}"
        )


def show(name: Name) -> None:
    """Print a model card."""
    from wsi_attn.models.zoo import find_model

    data((find_model(name) / "card.md").read_text().rstrip())


def build(name: Recipe, paths: Rebuild, work: Work) -> None:
    """Rebuild a shipped model: assemble its fields, train, evaluate against the baseline, write the card."""
    from wsi_attn.recipes.build import build as build_model

    console = Console(quiet=work.quiet)
    command = f"wsi-attn models build {name} --data DATA --output OUTPUT"  # Local paths stay out of the card.
    with console.progress(name) as progress:
        folder = build_model(
            name, paths.data_folder, paths.output, command=command, say=console.info, progress=progress
        )
    data(str(folder))


COMMAND = group()
