"""Registries of named members: built in, of installed packages, or registered by a program.

A registry lists the built-in members of one family by name and by the place of the object, ``"module:object"``, and
imports it on first use. Installed packages add members with an entry point of the registry's group; the entry points
are searched only if a name is not built in or if all names are needed. `docs/extending.md` has an example.
"""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from wsi_attn.errors import PluginError, PluginWarning, UnknownNameError

if TYPE_CHECKING:  # Takes 50 ms, and most commands need no plugin.
    from importlib.metadata import EntryPoint

T = TypeVar("T")

FAMILIES = ("readers", "exporters", "scores", "models", "encoders", "tasks")
"""Families that are open to other packages; the group of the entry points is ``wsi_attn.FAMILY``."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for an unknown name, with similar names or all available ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return UnknownNameError(f"There is no {kind} named {name!r}; {hint}", kind, name, names)


class Registry(Generic[T]):
    """Named members of one family.

    Parameters
    ----------
    kind
        What messages call a member, "score".
    group
        Group of the entry points of other packages, "wsi_attn.scores"; empty if the family is closed.
    built_in
        Places of the built-in members by name, ``{"focus": "wsi_attn.scores.scores:FOCUS"}``, in the order of listing.
    accepts
        Whether an object can be a member; members of other packages are checked when they are loaded.
    """

    def __init__(
        self,
        kind: str,
        group: str = "",
        built_in: Mapping[str, str] | None = None,
        accepts: Callable[[object], bool] = lambda member: True,
    ) -> None:
        self.kind = kind
        self.group = group
        self._places = dict(built_in or {})
        self._accepts = accepts
        self._members: dict[str, T] = {}
        self._plugins: dict[str, EntryPoint] | None = None
        self._loaded: dict[str, T | PluginError] = {}

    @property
    def built_in(self) -> tuple[str, ...]:
        """Names of the built-in members in the order of their listing."""
        return tuple(self._places)

    @property
    def plugins(self) -> Mapping[str, EntryPoint]:
        """Entry points of installed packages by name, sorted; nothing is imported.

        A package cannot replace a built-in member, and of two packages with one name the first by name counts. The
        others are left out with a `PluginWarning`.
        """
        if self._plugins is None:
            self._plugins = {}
            for point in self._entry_points():
                if point.name in self._places or point.name in self._plugins:
                    first = f"of {package_of(self._plugins[point.name])}" if point.name in self._plugins else "built in"
                    warnings.warn(
                        f"The {self.kind} {point.name} of the package {package_of(point)} is ignored: "
                        f"the one {first} has the same name",
                        PluginWarning,
                        stacklevel=2,
                    )
                else:
                    self._plugins[point.name] = point
        return self._plugins

    def _entry_points(self) -> list[EntryPoint]:
        if not self.group:
            return []
        from importlib.metadata import entry_points

        return sorted(entry_points(group=self.group), key=lambda point: (point.name, package_of(point)))

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers a member of the running program under a name."""

        def decorate(value: T) -> T:
            self._members[name] = value
            return value

        return decorate

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._places, *self._members, *self.plugins})

    def __contains__(self, name: object) -> bool:
        return name in self._members or name in self._places or name in self.plugins

    def get(self, name: str) -> T:
        """Return the member of a name, imported on first use.

        Raises
        ------
        UnknownNameError : there is none; the message lists similar names.
        PluginError : the package that provides it cannot be imported or provides something else.
        """
        if name in self._members:
            return self._members[name]
        if name in self._places:
            module, _, attribute = self._places[name].partition(":")
            return self._members.setdefault(name, cast(T, getattr(importlib.import_module(module), attribute)))
        if name not in self.plugins:
            raise unknown_name(self.kind, name, self.names())
        if name not in self._loaded:
            self._loaded[name] = self._load(self.plugins[name])
        found = self._loaded[name]
        if isinstance(found, PluginError):
            raise found
        return found

    def _load(self, point: EntryPoint) -> T | PluginError:
        try:
            member = point.load()
            reason = "" if self._accepts(member) else f"{point.value} is not a {self.kind}; see docs/extending.md"
        except Exception as error:  # the package may raise anything while it is imported
            reason = f"{type(error).__name__}: {error}"
        if not reason:
            return cast(T, member)
        return PluginError(
            f"The {self.kind} {point.name} of the package {package_of(point)} cannot be used ({reason}); "
            "update or uninstall the package"
        )

    def all(self) -> Iterator[tuple[str, T]]:
        """All members with their names, the built-in ones first; a package that is broken gives one `PluginWarning`."""
        for name in dict.fromkeys((*self._places, *self._members)):
            yield name, self.get(name)
        for name in self.plugins:
            try:
                member = self.get(name)
            except PluginError as error:
                warnings.warn(str(error), PluginWarning, stacklevel=2)
                continue
            yield name, member


def package_of(point: EntryPoint) -> str:
    """Name and version of the package of an entry point."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value.partition(":")[0]
