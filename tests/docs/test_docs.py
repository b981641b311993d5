"""The documentation covers every command and option and has no dead links or stale references."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import typer

from wsi_attn.cli.app import app
from wsi_attn.cli.command import HELP, Command, write_sections
from wsi_attn.cli.train import TrainCommand
from wsi_attn.errors import ExitCode
from wsi_attn.models.configs import CONFIGS
from wsi_attn.store.records import json_schema

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "commands.md"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

INTRODUCTION = """# Commands and exit codes

stdout carries only data: one line per slide, or one JSON object per slide with `--json`. Progress, warnings and errors
go to stderr; `--quiet` prints only errors. On a terminal, progress is a line with the input, its number, the phase and
its steps, the elapsed time of the input, and an estimate of the time left for the phase, or for all inputs once one is
finished. Elsewhere, each finished input gives a line such as `[3/12] slide.svs: predicted in 4.2 s`.

Complete output of the same input and parameters is skipped with a message, and incomplete output is resumed. Any other
existing output is an error unless `--overwrite` is given. Output that another process is writing is an error.
`wsi-attn --log-file FILE COMMAND` also appends the messages on stderr to a file; if the file cannot be written to, one
line says so. A closed or full stdout or stderr stops no command: all inputs are processed, and the exit code is 3 if
results are lost because stdout is full. An unexpected error of one input does not stop the others; the exit code is 1.
`-h` is short for `--help`, `-V` for
`--version`.

## Inputs

A command that takes slides accepts any number of:

- slides, images and stores;
- folders: the slides, images and stores in the folder, sorted by name. Subfolders are not searched. A store beside the
  slide of the same name is omitted. All files of a DICOM series together are one slide. For `heatmap` and `export`, a
  folder stands for its predictions, or for its stores if it has no predictions; for `verify`, for its stores;
- manifests: CSV files with a header and a column `path` (or `slide_id`, `wsi`, `slide`, `image_path`, `filename`).
  Paths are relative to the manifest. The column `mpp` is the pixel size of each slide in µm, `X` or `X,Y`; it
  overrides `--slide-mpp` and the pixel size of the file. An empty cell or 0 means unknown. Several images separated by
  `;` form one field;
- `-`: a list of any of these on stdin, one per line or separated by NUL as by `find -print0`.

An unusable input is reported, and the others are processed. URLs such as `s3://` are not supported as inputs or
outputs.

## Defaults in a file

`wsi-attn --config lab.toml COMMAND` reads option defaults from a TOML file with one table per command. Keys are option
names without dashes; the command line takes precedence. Unknown tables, unknown keys and values of the wrong type are
errors.

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
fish), or for the one named after it; it takes effect in a new terminal. `wsi-attn --show-completion` prints the script.
In zsh, the first Tab of a session only loads the completion.

## Exit codes

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | unexpected error (a bug); `--debug` prints the traceback |
| 2 | usage error |
| 3 | input unreadable or invalid |
| 4 | some of several inputs failed |
| 5 | an optional dependency is missing |
| 130 | interrupted by Ctrl-C |
| 143 | ended by a termination signal |

All commands that compute accept `--threads N`; see [performance.md](performance.md).
"""


def commands() -> list[tuple[str, Command]]:
    """Every command with its full name, groups' members after the group."""
    root = app
    found = []

    def walk(name: str, command: Command) -> None:
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
        if isinstance(command, TrainCommand):
            for system in CONFIGS.built_in:
                formatter = context.make_formatter()
                write_sections(context, formatter, command.own(system))
                shown = formatter.getvalue().strip("\n")
                parts.append(f"### `{name} --model {system}`\n\n```\n{shown}\n```\n")
    return "\n".join(parts)


def test_reference_is_what_the_program_says() -> None:
    """WSI_ATTN_UPDATE_DOCS=1 updates it."""
    if os.environ.get("WSI_ATTN_UPDATE_DOCS"):
        REFERENCE.write_text(reference())
    assert REFERENCE.read_text() == reference()


def test_every_option_has_help() -> None:
    for name, command in commands():
        assert command.help, name
        for parameter in command.made().params:
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
    known = {option for _, command in commands() for parameter in command.made().params for option in parameter.opts}
    known |= {"--version", "-V", "--config", "--log-file", "--help", "-h", "--install-completion", "--show-completion"}
    for page in PAGES:
        for line in re.findall(r"^(?:find .* \| )?wsi-attn .*$", page.read_text(), re.MULTILINE):
            for option in re.findall(r"(?<!\S)(--[a-z-]+|-[a-z])(?!\S)", line.split("#")[0].split("| wsi-attn")[-1]):
                assert option in known, f"{page.name}: {option} in {line}"
