"""Base classes of all commands: help in sections without Rich, short usage errors, and refusal of URLs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

from wsi_attn.errors import UsageError
from wsi_attn.outputs.names import check_output

ARGUMENTS, OPTIONS = "Arguments", "Options"
HELP = ("-h", "--help")


class Command(TyperCommand):
    """Command that refuses URLs in options and has one section of `--help` per `rich_help_panel`.

    Sections are in order of first occurrence.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line, then check its options.

        Raises
        ------
        UsageError : a path is a URL.
        """
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            check_paths(self.params, ctx.params)
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the usage line without the braces that some versions of Typer put around arguments."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections; called by `--help`."""
        sections: dict[str, list[tuple[str, str]]] = {ARGUMENTS: [], OPTIONS: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                other = ARGUMENTS if parameter.param_type_name == "argument" else OPTIONS
                panel = getattr(parameter, "rich_help_panel", None) or other
                sections.setdefault(panel, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Group(TyperGroup):
    """A group of commands that refuses empty arguments, and URLs in its own options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `Command.parse_args`."""
        if not ctx.resilient_parsing:
            check_empty(args)
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            check_paths(self.params, ctx.params)
        return rest


def check_empty(arguments: list[str]) -> None:
    """Refuse empty arguments, such as an unset shell variable in quotes: as a path they mean the current folder.

    Raises
    ------
    UsageError : an argument or the value of an option is empty.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option = argument[:-1] if argument.startswith("--") and argument.endswith("=") else ""
        if not argument.strip() or option:
            option = option or (before if before.startswith("-") else "")
            what = f"the value of {option} is empty" if option else "an argument is empty"
            raise UsageError(f"{what}; give a value, and check that shell variables in the command are set")


def check_paths(parameters: list[Any], values: dict[str, Any]) -> None:
    """Refuse URLs in options and single-path arguments; lists of inputs are checked individually."""
    for parameter in parameters:
        value = values.get(parameter.name)
        if isinstance(value, Path) or (parameter.param_type_name == "option" and "://" in str(value)):
            check_output(str(value), parameter.opts[0])


def usage_of(error: Any) -> str:
    """Format a command-line error as one line: the problem, the usage and the help command."""
    message = " ".join(str(error.format_message()).split())
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    usage = " ".join(context.get_usage().split())
    return f"{message.rstrip('.')}{'' if message.endswith('?') else '.'} {usage} (see {context.command_path} --help)"
