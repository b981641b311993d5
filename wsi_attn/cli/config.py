"""Reader of `--config` files: TOML with one table per command and option names without dashes as keys."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from typer.core import TyperGroup

from wsi_attn.cli.command import Command
from wsi_attn.errors import UsageError
from wsi_attn.options import OptionField
from wsi_attn.registry import unknown_name

KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "an integer"),
    float: ((int, float), "a number"),
    str: ((str,), "text in quotes"),
    Path: ((str,), "a path in quotes"),
}
"""Accepted TOML types of each type of a field, and their name in messages."""


def read_config(path: Path, root: TyperGroup) -> MutableMapping[str, object]:
    """Read the option defaults of commands.

    Parameters
    ----------
    path
        The TOML file.
    root
        The root command group.

    Returns
    -------
    The `default_map` of the root context: values by command name and parameter name.

    Raises
    ------
    UsageError : the file cannot be read, or has an unknown table, an unknown key, or a value of the wrong type; the
        message names the file, the table and the key.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"Cannot read {path}: {error}") from error
    return _group(str(path), tables, root)


def _group(where: str, tables: Mapping[str, object], group: TyperGroup) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, table in tables.items():
        command = group.commands.get(name)
        if command is None:
            raise UsageError(f"{where}: {unknown_name('command', name, group.commands)}")
        if not isinstance(table, dict):
            raise UsageError(f"{where}: {name} is a command and needs a table: write [{name}], followed by its options")
        inner = f"{where}, [{name}]"
        if isinstance(command, TyperGroup):
            found[name] = _group(inner, table, command)
        elif isinstance(command, Command):
            found[name] = _options(inner, table, command)
    return found


def _options(where: str, table: Mapping[str, object], command: Command) -> dict[str, object]:
    options = {
        name.removeprefix("--"): field
        for field in command.fields()
        for name in (*(field.option.name or field.flag).split("/"), *field.option.aliases)
        if name.startswith("--")
    }
    found = {}
    for key, value in table.items():
        field = options.get(key.replace("_", "-"))
        if field is None:
            raise UsageError(f"{where}: {unknown_name('option', key, options)}")
        if problem := _problem(value, field):
            raise UsageError(f"{where}: {key} takes {problem}, not {value!r}")
        if not isinstance(value, list) and (wrong := field.option.problem(value)):
            raise UsageError(f"{where}: {key} = {value!r}: {wrong}")
        found[field.name] = value
    return found


def _problem(value: object, field: OptionField) -> str:
    """Return the accepted type of an option if the value does not have it, otherwise an empty string."""
    kind = bool if field.option.stores is not None else str if field.option.parse is not None else field.kind
    types, name = KINDS[kind]
    many = field.many and field.option.parse is None
    fits = (
        all(
            isinstance(each, types) and (kind is bool or not isinstance(each, bool))
            for each in (value if many and isinstance(value, list) else [value])
        )
        and isinstance(value, list) == many
    )
    return "" if fits else f"a list, each {name}" if many else name
