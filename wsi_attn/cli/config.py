"""Reader of `--config` files: TOML with one table per command and option names without dashes as keys."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from wsi_attn.errors import UsageError
from wsi_attn.registry import unknown_name

KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "an integer"),
    float: ((int, float), "a number"),
    str: ((str,), "text in quotes"),
    Path: ((str,), "a path in quotes"),
}
"""Accepted TOML types of each option type, and their name in messages."""


def read_config(path: Path, root: Any) -> dict[str, Any]:
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
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"Cannot read {path}: {error}") from error
    return _group(str(path), tables, root)


def _group(where: str, tables: dict[str, Any], group: Any) -> dict[str, Any]:
    found = {}
    for name, table in tables.items():
        command = group.commands.get(name)
        if command is None:
            raise UsageError(f"{where}: {unknown_name('command', name, group.commands)}")
        if not isinstance(table, dict):
            raise UsageError(f"{where}: {name} is a command and needs a table: write [{name}], followed by its options")
        inner = f"{where}, [{name}]"
        found[name] = _group(inner, table, command) if hasattr(command, "commands") else _options(inner, table, command)
    return found


def _options(where: str, table: dict[str, Any], command: Any) -> dict[str, Any]:
    options = {
        name.removeprefix("--"): parameter
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in parameter.opts
        if name.startswith("--")
    }
    hints = get_type_hints(command.callback)
    found = {}
    for key, value in table.items():
        option = options.get(key.replace("_", "-"))
        if option is None:
            raise UsageError(f"{where}: {unknown_name('option', key, options)}")
        if problem := _problem(value, hints[option.name]):
            raise UsageError(f"{where}: {key} takes {problem}, not {value!r}")
        found[option.name] = value
    return found


def _problem(value: Any, hint: Any) -> str:
    """Return the accepted type of an option if the value does not have it, otherwise an empty string."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        wrong = not isinstance(value, list) or any(_problem(each, item) for each in value)
        return f"a list, each {_problem(None, item)}" if wrong else ""
    if get_origin(hint) is Literal:
        return "" if value in get_args(hint) else f"one of {', '.join(map(str, get_args(hint)))}"
    types, name = KINDS[hint]
    fits = isinstance(value, types) and (hint is bool or not isinstance(value, bool))
    return "" if fits else name
