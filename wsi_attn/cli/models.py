"""`wsi-attn models`: list the shipped models, show their cards, and rebuild them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_attn.cli.command import Command, Group
from wsi_attn.cli.options import Debug, Json, Output, Quiet, Threads
from wsi_attn.cli.output import Console, data, data_json

app = typer.Typer(
    cls=Group, help="List the shipped models, show a model card, or rebuild a model.", rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(help="Name of a shipped model, a run folder or a checkpoint folder.")]
Recipe = Annotated[str, typer.Argument(help="Name of a shipped model.")]
Data = Annotated[Path, typer.Option("--data", help="Data set folder with the subfolders segment/ and classify/.")]


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_models()


@app.command("list", cls=Command)
def list_models(json: Json = False) -> None:
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
        data_json(record) if json else data(f"{name}\t{config['system']}\t{spec['stain']}\t{resolution}\t{labels}")


@app.command("show", cls=Command)
def show(name: Name) -> None:
    """Print a model card."""
    from wsi_attn.models.zoo import find_model

    data((find_model(name) / "card.md").read_text().rstrip())


@app.command("build", cls=Command)
def build(
    name: Recipe, data_folder: Data, output: Output, threads: Threads = None, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Rebuild a shipped model: assemble its fields, train, evaluate against the baseline, write the card."""
    from wsi_attn.recipes.build import build as build_model

    console = Console(quiet=quiet)
    command = f"wsi-attn models build {name} --data DATA --output OUTPUT"  # Local paths stay out of the card.
    with console.progress(name) as progress:
        folder = build_model(name, data_folder, output, command=command, say=console.info, progress=progress)
    data(str(folder))
