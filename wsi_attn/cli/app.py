"""The `wsi-attn` application: registers the commands and turns every error into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, cast

import typer

from wsi_attn import __version__
from wsi_attn.cli.command import COMPLETION, HELP, Commands, Group, usage_of
from wsi_attn.cli.options import DEBUG
from wsi_attn.cli.output import LOG, open_log, report, show_plugin_warnings
from wsi_attn.cli.streams import Streams
from wsi_attn.errors import ExitCode, UsageError, WsiAttnError
from wsi_attn.outputs.names import check_output

# Base class of all command-line errors. typer exports only this subclass, from the separate package click up to
# typer 0.25 and from a vendored copy afterwards, so click itself cannot be imported.
COMMAND_LINE_ERROR = cast(type[typer.BadParameter], typer.BadParameter.__base__)

NAME = "wsi-attn"

COMMANDS = (
    "info",
    "tissue",
    "tile",
    "verify",
    "boxes",
    "train",
    "evaluate",
    "predict",
    "segment",
    "heatmap",
    "export",
    "view",
    "models",
    "doctor",
)
"""Names of the commands in the order of the help; each is the `COMMAND` of the module of its name."""


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"wsi-attn {__version__}")
        raise typer.Exit


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Read option defaults from a TOML file."""
    if path is not None and isinstance(context.command, Group):
        check_output(path, "--config")
        from wsi_attn.cli.config import read_config

        context.default_map = read_config(path, context.command)
    return path


def _open_log(path: Path | None) -> Path | None:
    LOG.clear()
    if path is not None:
        check_output(path, "--log-file")
        open_log(path)
    return path


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="TOML file with option defaults: one table per command, with option names as keys.",
            callback=_read_config,
            is_eager=True,
        ),
    ] = None,
    log_file: Annotated[
        Path | None,
        typer.Option(
            "--log-file", help="Also append the messages on stderr to this file, with timestamps.", callback=_open_log
        ),
    ] = None,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(ExitCode.USAGE)


def _program() -> Group:
    typed = typer.Typer(
        name=NAME,
        help="Attention models for whole-slide and microscopy images. Research use only.",
        cls=Group,
        context_settings={"help_option_names": list(HELP)},
        invoke_without_command=True,
        rich_markup_mode=None,  # Plain help takes half the time.
        pretty_exceptions_enable=False,
    )
    typed.callback()(_root)
    group = cast(Group, typer.main.get_command(typed))
    group.commands = Commands({name: f"{__package__}.{name}" for name in COMMANDS})  # type: ignore[assignment]
    for option in group.params:
        if option.opts[0] in COMPLETION:  # Typer's own, to which `Group` adds the name of a shell.
            option.help = f"{option.help} Another shell: add bash, zsh or fish."  # type: ignore[attr-defined]
    return group


app = _program()
"""The program, as a group of commands."""


def main() -> None:
    """Entry point of the console script."""
    streams = Streams()
    logging.getLogger().addHandler(logging.NullHandler())  # Silences log records of libraries.
    show_plugin_warnings()
    code = run(sys.argv[1:])
    if lost := streams.finish():
        report(UsageError(f"Cannot write the results to stdout: {lost}"))
        code = code or ExitCode.INVALID_INPUT
        streams.finish()
    # Everything is written and closed; interpreter shutdown would take another tenth of a second.
    os._exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    DEBUG["on"] = False
    try:
        result = app(arguments, prog_name=NAME, standalone_mode=False)
        if result == ExitCode.INTERRUPTED:  # Typer handles Ctrl-C silently.
            print("wsi-attn: interrupted", file=sys.stderr)  # noqa: T201
        return int(result) if isinstance(result, int) else ExitCode.DONE
    except typer.Exit as finished:
        return finished.exit_code
    except SystemExit as finished:  # Raised by Typer after shell completion.
        return finished.code if isinstance(finished.code, int) else ExitCode.DONE
    except (KeyboardInterrupt, typer.Abort):
        print("wsi-attn: interrupted", file=sys.stderr)  # noqa: T201
        return ExitCode.INTERRUPTED
    except COMMAND_LINE_ERROR as error:
        report(UsageError(usage_of(error)))
        return ExitCode.USAGE
    except WsiAttnError as error:
        report(error)
        return error.exit_code
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    if isinstance(error, OSError):
        report(UsageError(f"Cannot access {error.filename}: {error.strerror}") if error.filename else error)
        return ExitCode.INVALID_INPUT
    if DEBUG["on"]:
        raise error
    message = f"unexpected {type(error).__name__}: {error}; rerun with --debug for the traceback"
    print(f"wsi-attn: {message}", file=sys.stderr)  # noqa: T201
    return ExitCode.UNEXPECTED
