"""Parameters of the command line, made from the fields of configurations.

A command is a function. Each of its parameters is an argument (``Annotated[..., typer.Argument(...)]``), or a dataclass
whose fields become options, see `wsi_attn.options`. The function is called with the dataclasses, which are built only
from what the command line or the file of ``--config`` gives, so that every default is that of the field.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_type_hints

import typer

from wsi_attn.options import OptionField, option_fields

if TYPE_CHECKING:  # Only for types: the place of Click differs between the versions of Typer.
    from typer._click import Context, Parameter


@dataclass(frozen=True)
class Only:
    """Annotation of a parameter that is a dataclass of which only these fields are options."""

    fields: tuple[str, ...]


class Given(dict[str, object]):
    """Values by field of the options that were given, of a dataclass that only the command line decides."""


@dataclass(frozen=True)
class Made:
    """The parameters of one command.

    Attributes
    ----------
    params
        Of Typer, in the order of the help.
    call
        The function with these parameters, for Typer.
    fields
        The options that are fields, by name.
    """

    params: list[Parameter]
    call: Callable[..., object]
    fields: Mapping[str, OptionField]


def make(function: Callable[..., None], given: type | None = None, leave_out: Iterable[str] = ()) -> Made:
    """Make the parameters of a command.

    Parameters
    ----------
    given
        The dataclass of the parameter whose type is `Given`, if there is one.
    leave_out
        Names of fields that are no options of this command.
    """
    plans = _plans(function, given, set(leave_out))
    order = [name for name, plan in plans.items() if isinstance(plan, inspect.Parameter)]
    fields = {field.name: field for plan in plans.values() if isinstance(plan, _Group) for field in plan.fields}
    parameters = [plans[name] for name in order] + [_parameter(field) for field in fields.values()]

    def call(context: typer.Context, **values: object) -> None:
        groups = {name: plan for name, plan in plans.items() if isinstance(plan, _Group)}
        arguments: dict[str, object] = {name: values[name] for name in order}
        for name in sorted(groups, key=lambda name: not groups[name].shared):  # --threads before anything is loaded
            arguments[name] = groups[name].build(context, values)
        function(**arguments)

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    signed = [context, *(parameter for parameter in parameters if isinstance(parameter, inspect.Parameter))]
    call.__signature__ = inspect.Signature(signed)  # type: ignore[attr-defined]
    call.__annotations__ = {}
    call.__doc__ = function.__doc__
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(call)
    command = typer.main.get_command(app)
    return Made(list(command.params), cast(Callable[..., object], command.callback), fields)


@dataclass(frozen=True)
class _Group:
    """A parameter of a function that is a dataclass; `config` is None for `Given`."""

    config: type | None
    fields: tuple[OptionField, ...]

    @property
    def shared(self) -> bool:
        return self.config is not None and self.config.__module__ == "wsi_attn.cli.options"

    def build(self, context: typer.Context, values: Mapping[str, object]) -> object:
        given = Given()
        for field in self.fields:
            if is_given(context, field.name):
                given[field.name] = _value(field, values[field.name])
                field.check(given[field.name])
        return given if self.config is None else self.config(**given)


def is_given(context: Context, name: str) -> bool:
    """Whether a parameter was given on the command line or in the file of --config."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _plans(
    function: Callable[..., None], given: type | None, leave_out: set[str]
) -> dict[str, inspect.Parameter | _Group]:
    plans: dict[str, inspect.Parameter | _Group] = {}
    signature = inspect.signature(function)
    for name, hint in get_type_hints(function, include_extras=True).items():
        if name == "return":
            continue
        metadata, bare = getattr(hint, "__metadata__", ()), getattr(hint, "__origin__", hint)
        config = given if bare is Given else bare
        if config is None or is_dataclass(config):
            only = next((part.fields for part in metadata if isinstance(part, Only)), None)
            fields = option_fields(config).values() if config else ()
            chosen = [f for f in fields if f.name not in leave_out and (only is None or f.name in only)]
            group = _Group(None if bare is Given else config, tuple(chosen))
            plans[name] = replace(group, fields=group.fields[::-1]) if group.shared else group  # --quiet comes last
        else:
            plans[name] = signature.parameters[name].replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint)
    return plans


def _parameter(field: OptionField) -> inspect.Parameter:
    option, kind = field.option, _typed(field)
    names = (option.name or field.flag, *option.aliases)
    metavar = option.metavar or (f"[{'|'.join(option.choices)}]" if option.choices else "")
    suggestions = option.suggestions or (
        (lambda: (*option.choices, *option.more_choices())) if option.choices else None
    )
    info = typer.Option(
        *names,
        help=described(field),
        metavar=metavar or None,
        show_default=False,
        rich_help_panel=option.panel or None,
        autocompletion=None if suggestions is None else _completing(suggestions),
    )
    required = field.default is MISSING
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else None,
        annotation=Annotated[kind if required else kind | None, info],
    )


def _typed(field: OptionField) -> type:
    """The type of an option for Typer."""
    if field.option.stores is not None:
        return bool
    if field.option.parse is not None:
        return str
    return list[field.kind] if field.many else field.kind  # type: ignore[name-defined]


def _value(field: OptionField, value: object) -> object:
    """From the value of the command line to that of the field."""
    if field.option.stores is not None:
        return field.option.stores if value else field.default
    if field.option.parse is not None and isinstance(value, str):
        return field.parse(value)
    return tuple(value) if field.many and isinstance(value, list | tuple) else value


def described(field: OptionField) -> str:
    """The help of an option with its default, unit and range."""
    option, default = field.option, field.default
    shown = option.default
    if not shown and isinstance(default, tuple) and default:
        shown = ",".join(map(str, default))
    elif not shown and isinstance(default, int | float | str | Path) and not isinstance(default, bool):
        shown = f"{default:g}" if isinstance(default, float) else str(default)
    if option.stores is not None:
        shown = ""
    elif shown and not option.default and option.unit:
        shown += f" {option.unit}"
    unit = "" if option.unit and shown.endswith(option.unit) else option.unit
    stated = "; ".join(filter(None, (shown and f"default: {shown}", option.range and f"{option.range} {unit}".strip())))
    return f"{option.help} [{stated}]" if stated else option.help


def _completing(values: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [value for value in values() if value.startswith(incomplete)]

    return complete
