"""What the field of a configuration means: help, unit, range, choices, and its names on the command line.

A field is an option once, and everything else follows from it: ``--help``, the keys of ``--config``, the reference in
``docs/commands.md``, the check of a value on the command line, in a file and in Python, and the default::

    @dataclass(frozen=True)
    class TileConfig:
        overlap: Annotated[int, Option("Overlap of neighbouring tiles.", unit="px", at_least=0)] = 0

        def __post_init__(self) -> None:
            check_fields(self)

A module with a configuration imports neither NumPy nor PyTorch, so that ``--help`` is instant. This one does not import
the library of the command line.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from wsi_attn.errors import UnknownNameError, UsageError

Kind: TypeAlias = type[bool] | type[int] | type[float] | type[str] | type
"""Type of one value of an option."""


@dataclass(frozen=True)
class Option:
    """An option, as the annotation of a dataclass field: ``Annotated[int, Option("Number of epochs.", at_least=1)]``.

    The range applies to numbers and to every number of a tuple; NaN and infinity are outside every range. The choices
    are those of a `typing.Literal`, or `choices`.
    """

    help: str
    """One or two sentences."""
    name: str = ""
    """Name on the command line, by default that of the field: ``--tile-size``; ``--open/--no-open`` for two flags."""
    aliases: tuple[str, ...] = ()
    """Further names, such as ``-o``."""
    unit: str = ""
    """Unit of a number, shown in the help."""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    """All values that are allowed."""
    more_choices: Callable[[], Iterable[str]] = tuple
    """Further values that are allowed, those of installed packages; called only for a value that is none of `choices`
    and to complete one."""
    suggestions: Callable[[], Iterable[str]] | None = None
    """Values that the shell completes; others are allowed as well."""
    default: str = ""
    """What the help says instead of the default of the field, for one that depends on other things."""
    metavar: str = ""
    """What stands for the value in the help."""
    panel: str = ""
    """Section of the help."""
    stores: object = None
    """The value that the option sets, which then takes none."""
    parse: Callable[[str], object] | None = None
    """From the text on the command line to the value; raises `ValueError` with what the option takes."""
    check: Callable[[object, str], object] | None = None
    """Further check of a value that is not None: called with the value and the name of the option; raises."""
    task: str = ""
    """The only task of models that the option applies to."""

    @property
    def range(self) -> str:
        """The range in words; empty if there is none."""
        if self.at_least is not None and self.at_most is not None:
            return f"from {self.at_least:g} to {self.at_most:g}"
        low = f"at least {self.at_least:g}" if self.at_least is not None else ""
        if self.above is not None:
            low = f"above {self.above:g}"
        high = f"at most {self.at_most:g}" if self.at_most is not None else ""
        if self.below is not None:
            high = f"below {self.below:g}"
        return ", ".join(filter(None, (low, high)))

    def problem(self, value: object) -> str:
        """Return what is wrong with a value, as the end of "--option VALUE: ..."; empty if it is allowed."""
        if isinstance(value, tuple):
            return next(filter(None, map(self.problem, value)), "")
        if isinstance(value, str) and self.choices and value not in self.choices:
            known = (*self.choices, *self.more_choices())
            near = difflib.get_close_matches(value, known, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            return "" if value in known else f"must be one of {', '.join(known)}{hint}"
        if isinstance(value, int | float) and self.range and not self._holds(value):
            return f"must be {self.range}{f' {self.unit}' if self.unit else ''}"
        return ""

    def _holds(self, number: float) -> bool:
        return (
            math.isfinite(number)
            and (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )


@dataclass(frozen=True)
class OptionField:
    """A field of a configuration that is an option.

    Attributes
    ----------
    name
        Of the field.
    kind
        Type of one value.
    many
        Whether the value is a tuple.
    default
        Default of the field, `dataclasses.MISSING` if it must be given.
    """

    name: str
    option: Option
    kind: Kind
    many: bool
    default: object

    @property
    def flag(self) -> str:
        """The first name on the command line, ``--tile-size``."""
        return (self.option.name or f"--{self.name.replace('_', '-')}").partition("/")[0]

    def check(self, value: object) -> None:
        """Check one value of the field.

        Raises
        ------
        UsageError : it is out of range; the message names option, value and range.
        UnknownNameError : it is none of the choices.
        """
        if value is None:
            return
        if problem := self.option.problem(value):
            message = f"{self.flag} {value}: {problem}"
            if self.option.choices:
                raise UnknownNameError(message, self.name.replace("_", " "), str(value), sorted(self.option.choices))
            raise UsageError(message)
        if self.option.check is not None:
            self.option.check(value, self.flag)

    def parse(self, text: str) -> object:
        """Return the value that a text stands for; raises `UsageError`."""
        if self.option.parse is None:
            raise TypeError(f"{self.flag} is not given as text")
        try:
            return self.option.parse(text)
        except ValueError as error:
            raise UsageError(f"{self.flag} takes {error}, not {text!r}") from error


_FOUND: dict[type, dict[str, OptionField]] = {}


def option_fields(config: type) -> Mapping[str, OptionField]:
    """The fields of a dataclass that are options, by name, in their order."""
    if config not in _FOUND:
        _FOUND[config] = _option_fields(config)
    return _FOUND[config]


def changed_options(config: object) -> Iterator[OptionField]:
    """Yield the options of a configuration that differ from their defaults."""
    for name, field in option_fields(type(config)).items():
        if getattr(config, name) != field.default:
            yield field


def _option_fields(config: type) -> dict[str, OptionField]:
    if not is_dataclass(config):
        raise TypeError(f"{config} is not a dataclass")
    hints = get_type_hints(config, include_extras=True)
    found = {}
    for field in fields(config):
        hint = hints[field.name]
        option = next((part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Option)), None)
        if option is None:
            continue
        kind, many, choices = _kind(hint)
        if choices:
            option = Option(**{**vars(option), "choices": choices})
        default = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        found[field.name] = OptionField(field.name, option, kind, many, default)
    return found


def check_fields(config: object) -> None:
    """Check all options of a configuration; for its `__post_init__`.

    Raises
    ------
    UsageError : a value is out of range; the message names option, value and range.
    UnknownNameError : a value is none of the choices.
    """
    for name, field in option_fields(type(config)).items():
        field.check(getattr(config, name))


def _kind(hint: object) -> tuple[Kind, bool, tuple[str, ...]]:
    """The type of one value, whether there are many, and the choices of a `Literal`."""
    if get_origin(hint) is Annotated:
        return _kind(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        (some,) = (part for part in get_args(hint) if part is not NoneType)
        return _kind(some)
    if get_origin(hint) is tuple:
        kind, _, choices = _kind(get_args(hint)[0])
        return kind, True, choices
    if get_origin(hint) is Literal:
        return str, False, get_args(hint)
    if not isinstance(hint, type):
        raise TypeError(f"{hint} cannot be the type of an option")
    return hint, False, ()
