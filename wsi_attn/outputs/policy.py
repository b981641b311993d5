"""Whether an output is written, resumed, skipped or refused: one decision for every command.

A command describes its output: the paths, and how to read what already lies there. The reader says whether that is the
wanted output, of the same input and parameters; `decide` says what follows from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

from wsi_attn.errors import OutputExistsError
from wsi_attn.outputs import files
from wsi_attn.outputs.lock import lock_file, output_lock

Result = TypeVar("Result")


class State(Enum):
    """State of an output before it is written."""

    NEW = "new"
    UNFINISHED = "unfinished"
    COMPLETE = "complete"
    OTHER = "other"


@dataclass(frozen=True)
class Found(Generic[Result]):
    """What lies at the paths of an output.

    Attributes
    ----------
    result
        What the earlier run found; required if the output is complete.
    reason
        Of another output, as the end of a sentence that begins with its path: "is not a report".
    """

    state: State
    result: Result | None = None
    reason: str = ""

    @property
    def finished(self) -> Result | None:
        """The result of a complete output, which is not written again; None for all others."""
        return self.result if self.state is State.COMPLETE else None


def complete(result: Result) -> Found[Result]:
    """The wanted output, of the same input and parameters."""
    return Found(State.COMPLETE, result)


def nothing() -> Found[Result]:
    """Nothing that is worth keeping: the output is written as a new one."""
    return Found(State.NEW)


def unfinished(result: Result | None = None) -> Found[Result]:
    """A part of the wanted output: a run resumes it, or writes it again."""
    return Found(State.UNFINISHED, result)


def other(reason: str) -> Found[Result]:
    """Something else, which is refused unless it may be overwritten; see `Found.reason`."""
    return Found(State.OTHER, reason=reason)


@dataclass(frozen=True)
class Output(Generic[Result]):
    """An output that a command is about to write.

    Attributes
    ----------
    path
        The file or folder that names the output; its lock lies beside it.
    inspect
        Reads what is at the paths; called if anything is.
    beside
        Further paths of the output.
    option
        The command-line option that names the output.
    repair
        Does what a killed run left out; called with the lock held, before the last inspection. An output that needs it
        is unfinished. Temporary files are deleted without it.
    protected
        Paths that are not replaced even with `--overwrite` if a function of the path returns a reason, see
        `check_protected`.
    """

    path: Path
    inspect: Callable[[], Found[Result]]
    beside: tuple[Path, ...] = ()
    option: str = "--output"
    repair: Callable[[], None] = lambda: None
    protected: Mapping[Path, Callable[[Path], str]] = field(default_factory=dict)


def decide(output: Output[Result], *, overwrite: bool) -> Found[Result]:
    """Return the state of an output: new, unfinished or complete. With `overwrite` every output is new.

    Raises
    ------
    OutputExistsError : something else is there, and must not be replaced.
    """
    paths = (output.path, *output.beside)
    there = [path for path in paths if os.path.lexists(path) and not _is_empty(path)]
    found = output.inspect() if there and not overwrite else nothing()
    if found.state is State.OTHER and output.path not in there and lock_file(output.path).exists():
        found = unfinished()  # A killed run left its lock and the parts that are written first.
    if found.state is State.OTHER:
        _refuse(there[0], f"{found.reason}; use --overwrite to replace it, or another {output.option}")
    if found.state is not State.COMPLETE:
        check_protected(output.protected, output.option)
    return found


def check_protected(protected: Mapping[Path, Callable[[Path], str]], option: str = "--output") -> None:
    """Refuse paths that are not of the kind that would replace them, such as a folder of another program.

    Parameters
    ----------
    protected
        For each path a function that is called if the path exists; it returns `Found.reason`, or "" if the path may be
        replaced.

    Raises
    ------
    OutputExistsError : a path must not be replaced.
    """
    for path, reason_of in protected.items():
        if os.path.lexists(path) and (reason := reason_of(path)):
            _refuse(path, f"{reason}; choose another {option}")


@contextmanager
def claim(output: Output[Result] | None, *, overwrite: bool) -> Iterator[Found[Result]]:
    """`decide`, and hold the lock of an output that is to be written; None is an answer that is not written.

    Raises
    ------
    OutputBusyError : another process is writing it.
    OutputExistsError : see `decide`.
    """
    found = decide(output, overwrite=overwrite) if output else nothing()
    if output is None or found.state is State.COMPLETE:  # Needs no lock: the folder may be read-only.
        yield found
        return
    with output_lock(output.path) as abandoned:
        if abandoned:
            for path in (output.path, *output.beside, *output.protected):
                files.remove_leftovers(path)
        output.repair()
        yield decide(output, overwrite=overwrite)  # Another process may have finished it in between.


def _refuse(path: Path, reason: str) -> NoReturn:
    raise OutputExistsError(f"{path} {reason}", path)


def same(recorded: object, wanted: object) -> bool:
    """Whether a record read from JSON equals the wanted one, whose tuples JSON turns into lists."""
    return bool(recorded == json.loads(json.dumps(wanted)))


def differences(recorded: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """Describe the parameters that are recorded with other values than the wanted ones."""
    return [
        f"{name} {recorded.get(name)} instead of {wanted[name]}"
        for name in sorted(wanted)
        if recorded.get(name) != wanted[name]
    ]


def _is_empty(path: Path) -> bool:
    """Whether a path is a folder without entries, or with temporary ones only, which is as good as nothing."""
    return path.is_dir() and all(files.is_temporary(entry) for entry in path.iterdir())
