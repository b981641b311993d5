"""Messages on stderr and data on stdout."""

from __future__ import annotations

import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import typer

from wsi_attn.cli.options import DEBUG
from wsi_attn.cli.progress import BatchBar, Hidden, terminal
from wsi_attn.errors import ExitCode, PluginWarning, UsageError, WsiAttnError, as_failure
from wsi_attn.paths import is_unicode, path_to_text, printable

if TYPE_CHECKING:  # Imports numpy, a third of the time of --help.
    from wsi_attn.data.inputs import Finder, Input
    from wsi_attn.slide import Item, SlideInfo

LOG: list[Path] = []
"""The file of --log-file, if any; it receives all messages with timestamps, also with --quiet."""

PENDING: list[str] = []
"""Messages about the inputs, printed by the next `Console`."""


class Console:
    """Messages and progress of a command on stderr, silent if quiet; collects failures."""

    def __init__(self, *, quiet: bool, total: int = 1) -> None:
        self.quiet = quiet
        self.total = total
        self.failures: list[WsiAttnError] = []
        if quiet:
            warnings.simplefilter("ignore", PluginWarning)
        while PENDING:
            self.info(PENDING.pop(0))

    def info(self, line: str) -> None:
        """Print one line to stderr."""
        line = printable(line)
        _log(line)
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)  # noqa: T201

    def fail(self, error: WsiAttnError) -> None:
        """Report a failed input."""
        self.failures.append(error)
        report(error)

    def exit_code(self) -> ExitCode:
        """Return 0, 1 if a failure is a bug, the code of the failures if all inputs failed, or 4 if some failed."""
        if not self.failures:
            return ExitCode.DONE
        codes = {error.exit_code for error in self.failures}
        if ExitCode.UNEXPECTED in codes:
            return ExitCode.UNEXPECTED
        if len(self.failures) == self.total:
            return codes.pop() if len(codes) == 1 else ExitCode.INVALID_INPUT
        return ExitCode.SOME_FAILED

    def skipped(self, output: object, again: str) -> None:
        """Say that an output is complete and how to write it again."""
        self.info(f"{output} is already complete; use --overwrite to {again} again")

    def each(
        self,
        label: str,
        inputs: Sequence[Input],
        work: Callable[[Input, Item], Iterator[None]],
        unwritten: Callable[[Path, object], WsiAttnError] | None = None,
    ) -> NoReturn:
        """Work on the inputs of a command one by one, report those that fail, and exit.

        Parameters
        ----------
        label
            The command; see `progress`.
        work
            Works on an input until it yields, and afterwards, below the line of the finished input, says the result.
        unwritten
            Makes the error of an input from its path and the reason for which a file cannot be written.
        """
        self.total = len(inputs)
        with self.progress(label) as progress:
            for number, given in enumerate(inputs, 1):
                try:
                    with progress.item(number, len(inputs), given.path.name) as item:
                        steps = work(given, item)
                        next(steps)
                    next(steps, None)
                except Exception as error:
                    if unwritten is not None and isinstance(error, OSError) and not isinstance(error, WsiAttnError):
                        self.fail(unwritten(given.path, error.strerror or error))
                    else:
                        self.fail(as_failure(given.path, error))
        raise typer.Exit(self.exit_code())

    @contextmanager
    def progress(self, label: str) -> Iterator[BatchBar]:
        """Show the progress of the command: a live line on a terminal, one line per finished input elsewhere.

        Parameters
        ----------
        label
            Text shown outside of any input.
        """
        if self.quiet or not sys.stderr.isatty():
            yield BatchBar(label, Hidden(), self.info)
            return
        with terminal() as view:
            yield BatchBar(label, view, _log)


def report(error: BaseException) -> None:
    """Print an error as one line to stderr, even if quiet; with --debug preceded by its traceback."""
    if DEBUG["on"]:
        traceback.print_exception(error)
    message = printable(" ".join(str(error).split()))
    _log(f"error: {message}")
    print(f"wsi-attn: error: {message}", file=sys.stderr, flush=True)  # noqa: T201


def show_plugin_warnings() -> None:
    """Print each `PluginWarning` as one line to stderr; other warnings as Python does."""
    show = warnings.showwarning

    def show_one(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, PluginWarning):
            show(message, category, filename, lineno, file, line)
            return
        text = printable(f"warning: {' '.join(str(message).split())}")
        _log(text)
        print(f"wsi-attn: {text}", file=sys.stderr, flush=True)  # noqa: T201

    warnings.showwarning = show_one


def open_log(path: Path) -> None:
    """Open the log file; raises `UsageError` if it cannot be written."""
    if path.is_fifo() or path.is_socket():  # Opening it would wait for a reader.
        raise UsageError(f"Cannot write the log {path}: it is a pipe; give a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise UsageError(f"Cannot write the log {path}: {error.strerror}") from error
    LOG[:] = [path]


def _log(line: str) -> None:
    for path in tuple(LOG):
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}\n")
        except OSError as error:  # A full disk: the work is worth more than its log.
            LOG.clear()
            reason = f"Cannot write the log {path}: {error.strerror}; messages are on stderr only"
            print(f"wsi-attn: warning: {printable(reason)}", file=sys.stderr, flush=True)  # noqa: T201


def data(line: str) -> None:
    """Print one line of data to stdout."""
    print(line, flush=True)  # noqa: T201


def data_json(record: Mapping[str, object]) -> None:
    """Print one JSON object as one line to stdout; NaN is refused, and paths are written as by `path_to_text`."""
    data(json.dumps(_as_unicode(record), ensure_ascii=False, allow_nan=False))


def _as_unicode(value: object) -> object:
    """Replace every string that is not valid Unicode (only paths can be) by a `file:` URI."""
    if isinstance(value, str):
        return value if is_unicode(value) else path_to_text(value)
    if isinstance(value, dict):
        return {key: _as_unicode(item) for key, item in value.items()}
    return [_as_unicode(item) for item in value] if isinstance(value, list | tuple) else value


def interval(metric: dict[str, float | None]) -> str:
    """Format value, low and high of a metric as columns; - if undefined."""
    return "\t".join("-" if metric[key] is None else f"{metric[key]:.3f}" for key in ("value", "low", "high"))


def warn_about(console: Console, path: Path, info: SlideInfo) -> None:
    """Print the warnings about a slide."""
    for warning in info.warnings:
        console.info(f"warning: {path}: {warning}")


def expand(arguments: list[str], find: Finder | None = None, what: str = "slide, image or store") -> list[Input]:
    """Expand the arguments of a command to inputs; see `data.inputs.expand`.

    Raises
    ------
    UsageError : there is no input.
    """
    from wsi_attn.data import inputs

    found = inputs.expand(arguments, sys.stdin.buffer.read, find or inputs.slides_in, what)
    if not found:
        raise UsageError("no input: give files or folders, or - to read a list of paths from stdin")
    PENDING.extend(
        f"{each.path} represents its DICOM series; also given as {', '.join(map(str, each.left_out))}"
        for each in found
        if each.left_out
    )
    return found
