"""Base classes of all commands: help in sections without Rich, short usage errors, and refusal of URLs."""

from __future__ import annotations

import inspect
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from typer.core import TyperCommand, TyperGroup

from wsi_attn.cli.parameters import Made, make
from wsi_attn.errors import UsageError
from wsi_attn.options import OptionField
from wsi_attn.outputs.names import check_output

if TYPE_CHECKING:  # Only for types: the place of Click differs between the versions of Typer.
    from typer._click import ClickException, Context, HelpFormatter, Parameter

ARGUMENTS, OPTIONS = "Arguments", "Options"
HELP = ("-h", "--help")
COMPLETION = ("--install-completion", "--show-completion")
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")


class Command(TyperCommand):
    """Command that refuses URLs in options and has one section of `--help` per `rich_help_panel`.

    Its parameters are made from `function` when they are first needed, so that the help of the program needs none.
    Sections are in order of first occurrence.
    """

    def __init__(self, name: str, function: Callable[..., None]) -> None:
        super().__init__(name, help=inspect.getdoc(function), rich_markup_mode=None)
        self.function = function
        self._made: Made | None = None

    def made(self, ctx: Context | None = None) -> Made:
        """The parameters of the command."""
        if self._made is None:
            self._made = make(self.function)
        return self._made

    def fields(self) -> Iterable[OptionField]:
        """The options that a file of `--config` may set."""
        return self.made().fields.values()

    def get_params(self, ctx: Context) -> list[Parameter]:
        """Return the parameters and `--help`."""
        self.params = self.made(ctx).params
        return super().get_params(ctx)

    def shown(self, ctx: Context) -> list[Parameter]:
        """Return the parameters in the help."""
        return self.get_params(ctx)

    def invoke(self, ctx: Context) -> object:
        """Call the function."""
        return ctx.invoke(self.made(ctx).call, **ctx.params)

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Parse the command line, then check its options.

        Raises
        ------
        UsageError : a path is a URL.
        """
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            check_paths(self.params, ctx.params)
        return rest

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        """Return the usage line without the braces that some versions of Typer put around arguments."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the sections; called by `--help`."""
        write_sections(ctx, formatter, self.shown(ctx))


def write_sections(ctx: Context, formatter: HelpFormatter, parameters: Iterable[Parameter]) -> None:
    """Write the help of parameters, one section per panel, in order of first occurrence."""
    sections: dict[str, list[tuple[str, str]]] = {ARGUMENTS: [], OPTIONS: []}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is not None:
            other = ARGUMENTS if parameter.param_type_name == "argument" else OPTIONS
            panel = getattr(parameter, "rich_help_panel", None) or other
            sections.setdefault(panel, []).append(record)
    for title, records in sections.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


class Commands(UserDict[str, TyperCommand | TyperGroup]):
    """Commands by name, given as the modules that hold them: a module is imported when its command is used.

    Running one command does without the imports of the others.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        super().__init__()
        self._modules = dict(modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __len__(self) -> int:
        return len(self._modules)

    def __missing__(self, name: str) -> TyperCommand | TyperGroup:
        command: TyperCommand | TyperGroup = import_module(self._modules[name]).COMMAND
        self.data[name] = command
        return command


class Group(TyperGroup):
    """A group of commands that refuses empty arguments, and URLs in its own options."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """See `Command.parse_args`."""
        if not ctx.resilient_parsing:
            check_empty(args)
            self._complete(ctx, args)
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            check_paths(self.params, ctx.params)
        return rest

    def _complete(self, ctx: Context, args: list[str]) -> None:
        """`--show-completion zsh`: without a shell, Typer detects the one that runs, and it takes no name."""
        option, _, shell = " ".join(args).replace("=", " ").partition(" ")
        if option not in COMPLETION or not shell:
            return
        if shell not in SHELLS:
            raise UsageError(f"{option} takes the name of a shell, {', '.join(SHELLS)}, not {shell!r}")
        for parameter in self.params:
            if option in parameter.opts and parameter.callback is not None:
                parameter.callback(ctx, parameter, shell)  # Ends the process.


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


def check_paths(parameters: Sequence[Parameter], values: Mapping[str, object]) -> None:
    """Refuse URLs in options and single-path arguments; lists of inputs are checked individually."""
    for parameter in parameters:
        value = values.get(parameter.name)
        if isinstance(value, Path) or (parameter.param_type_name == "option" and "://" in str(value)):
            check_output(str(value), parameter.opts[0])


def usage_of(error: ClickException) -> str:
    """Format a command-line error as one line: the problem, the usage and the help command."""
    message = " ".join(str(error.format_message()).split())
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    usage = " ".join(context.get_usage().split())
    return f"{message.rstrip('.')}{'' if message.endswith('?') else '.'} {usage} (see {context.command_path} --help)"
