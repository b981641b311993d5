"""The documents say what the program does: every command and option, no dead link, no stale reference."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand

from wsi_attn.cli.app import app
from wsi_attn.cli.command import HELP
from wsi_attn.errors import ExitCode
from wsi_attn.store.records import json_schema

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "commands.md"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

INTRODUCTION = """# Commands and exit codes

stdout carries data only: one line a slide, or with `--json` one JSON object a slide. stderr carries what people read:
progress, warnings, errors; `--quiet` leaves errors alone. On a terminal, progress is a line that shows the input, its
number, the phase, its steps, the time that has passed since the input was started and an estimate of the time left: of
the phase, or of all inputs once one is finished. Without a terminal, each finished input is a line such as
`[3/12] slide.svs: predicted in 4.2 s`. Output that is complete, from the same input and parameters, is skipped and said
so; incomplete output is resumed; anything else in the
way is refused unless `--overwrite`. `wsi-attn --log-file FILE COMMAND` also appends the messages of stderr to a file.
`-h` is short for `--help`, `-V` for `--version`.

## Inputs

Wherever a command takes slides, it takes any number of these:

- a slide, an image, or a store;
- a folder, which means the slides, images and stores in it, sorted by name. Subfolders are not searched. A store beside
  the slide of the same name is left out. The files of a DICOM series are one slide, however many of them are named.
  For `heatmap` and `export` a folder means its predictions, or its stores where it has no predictions; for `verify`
  its stores;
- a manifest, a CSV file with a header and a column `path` (or `slide_id`, `wsi`, `slide`, `image_path`, `filename`).
  Paths are relative to the manifest. A column `mpp` gives the pixel size of each slide in µm, `X` or `X,Y`; it wins
  over `--slide-mpp` and over the slide's own pixel size. An empty cell or 0 means that the pixel size is not known.
  Several images separated by `;` form one field;
- `-`, a list of any of these on stdin: one a line, or separated by NUL as `find -print0` writes them.

An input that cannot be used is reported, and the others are processed. URLs such as `s3://` are not supported, neither
as inputs nor as outputs.

## Defaults in a file

`wsi-attn --config lab.toml COMMAND` takes defaults from a TOML file with one table for each command. Keys are names of
options without the dashes; the command line wins. Unknown tables and keys and values of the wrong type are refused.

```toml
[tile]
tile-size = 512
scores = "none"

[predict]
model = "cellularity-he"
overwrite = true
```

## Shell completion

`wsi-attn --install-completion` installs completion of commands, options and values for the current shell (bash, zsh or
fish; it takes effect in a new terminal), and `wsi-attn --show-completion` prints the script. In zsh the first Tab of a
session loads the completion, the second one completes.

## Exit codes

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | unexpected error, a bug: `--debug` shows the traceback |
| 2 | wrong usage |
| 3 | input unreadable or invalid |
| 4 | finished, some of several inputs failed |
| 5 | an optional dependency is missing |
| 130 | interrupted |

Every command that computes has `--threads N`; [performance.md](performance.md) says what it bounds.
"""


def commands() -> list[tuple[str, TyperCommand]]:
    """Every command with its full name, groups' members after the group."""
    root = typer.main.get_command(app)
    found = []

    def walk(name: str, command: TyperCommand) -> None:
        members = getattr(command, "commands", {})
        if not members:
            found.append((name, command))
        for member in members:
            walk(f"{name} {member}", members[member])

    walk("wsi-attn", root)
    return found


def reference() -> str:
    """The whole of docs/commands.md."""
    parts = [INTRODUCTION]
    for name, command in commands():
        context = typer.Context(
            command, info_name=name, terminal_width=100, max_content_width=100, help_option_names=list(HELP)
        )
        parts.append(f"## `{name}`\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def test_reference_is_what_the_program_says() -> None:
    """WSI_ATTN_UPDATE_DOCS=1 writes it anew."""
    if os.environ.get("WSI_ATTN_UPDATE_DOCS"):
        REFERENCE.write_text(reference())
    assert REFERENCE.read_text() == reference()


def test_every_option_has_help() -> None:
    for name, command in commands():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_schema_of_predictions_is_published() -> None:
    """WSI_ATTN_UPDATE_DOCS=1 writes it."""
    path = ROOT / "docs" / "prediction.schema.json"
    if os.environ.get("WSI_ATTN_UPDATE_DOCS"):
        path.write_text(json_schema())
    assert path.read_text() == json_schema()


def test_every_exit_code_is_documented() -> None:
    for code in ExitCode:
        assert f"| {int(code)} |" in INTRODUCTION


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_shows_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    for name, _ in commands():
        if name not in ("wsi-attn models list",):
            assert name in text, name


def test_readme_commands_use_known_options() -> None:
    known = {option for _, command in commands() for parameter in command.params for option in parameter.opts}
    known |= {"--version", "-V", "--config", "--log-file", "--help", "-h", "--install-completion", "--show-completion"}
    for page in PAGES:
        for line in re.findall(r"^(?:find .* \| )?wsi-attn .*$", page.read_text(), re.MULTILINE):
            for option in re.findall(r"(?<!\S)(--[a-z-]+|-[a-z])(?!\S)", line.split("#")[0].split("| wsi-attn")[-1]):
                assert option in known, f"{page.name}: {option} in {line}"
