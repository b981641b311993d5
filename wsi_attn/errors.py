"""Every exception of the toolkit, and its exit code on the command line.

All derive from `WsiAttnError`; each leaf also derives from the built-in exception that a caller would catch. A message
states what failed, where, and what to do next; facts for programs are attributes. This module imports nothing from the
toolkit, so every layer may raise its errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """Exit codes of the process."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    INVALID_INPUT = 3
    SOME_FAILED = 4
    EXTRA_MISSING = 5
    INTERRUPTED = 130


class WsiAttnError(Exception):
    """Base of all errors that the toolkit raises intentionally."""

    exit_code = ExitCode.INVALID_INPUT


class UnexpectedError(WsiAttnError, RuntimeError):
    """An exception that no code expects, a bug, at one of several inputs; `__cause__` is the exception."""

    exit_code = ExitCode.UNEXPECTED


class UsageError(WsiAttnError, ValueError):
    """Options that contradict each other or are out of range."""

    exit_code = ExitCode.USAGE


class UnknownNameError(UsageError):
    """A name that does not exist; the message lists similar names.

    Attributes
    ----------
    kind
        What the name should be that of, "score".
    name
        The given name.
    known
        The names that exist, sorted.
    """

    def __init__(self, message: str, kind: str = "", name: str = "", known: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.kind, self.name, self.known = kind, name, tuple(known)


class PluginError(WsiAttnError, ImportError):
    """A member of a registry whose package cannot be imported or provides something else."""

    exit_code = ExitCode.EXTRA_MISSING


class PluginWarning(UserWarning):
    """A package extends wsi-attn and is left out because it is broken or its name is taken; the message names it."""


# slides ---------------------------------------------------------------------------------------------------


class SlideError(WsiAttnError):
    """Base of errors of slide and image files."""


class SlideNotFoundError(SlideError, FileNotFoundError):
    """The path does not exist."""


class SlideUnsupportedError(SlideError, ValueError):
    """No reader can open the file; the message contains each reader's reason.

    Attributes
    ----------
    reasons
        The reasons one by one.
    """

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class UnknownFormatError(SlideUnsupportedError):
    """A reader does not recognise the file."""


class SlideReadError(SlideError, OSError):
    """A region could not be decoded; the rest of the slide may be intact."""


class SlideTruncatedError(SlideError, OSError):
    """The file ends before its pixels do, as after an incomplete copy or transfer."""


class NotEncodedError(SlideError, ValueError):
    """The compressed tiles of a level cannot be used unchanged; the message states why."""


class TileDecodeError(SlideError, ValueError):
    """The bytes of one tile cannot be decoded."""


class RegionError(SlideError, ValueError):
    """A level that does not exist or a size that is not positive."""


class MissingMppError(SlideError, ValueError):
    """A pixel size is required and the file does not state a plausible one."""


class TissueError(WsiAttnError, ValueError):
    """No tissue was found where tissue is required."""


# stores ---------------------------------------------------------------------------------------------------


class StoreError(WsiAttnError):
    """Base of errors of stores."""


class StoreSchemaError(StoreError, ValueError):
    """A path that is not a wsi-attn store, or a store of an unknown schema version."""


class StoreDamagedError(StoreError, ValueError):
    """A file of a store is missing or has changed, or its metadata is invalid; the message names the file."""


class StoreIncompleteError(StoreError, ValueError):
    """The store is unfinished; tiling again resumes it."""


# models and data ------------------------------------------------------------------------------------------


class ModelError(WsiAttnError):
    """Base of errors of models."""


class CheckpointError(ModelError, ValueError):
    """A folder that is not a wsi-attn checkpoint, or whose files do not match."""


class ModelMismatchError(ModelError, ValueError):
    """The input's stain or pixel size is outside the model's training range."""


class DivergedError(ModelError, ArithmeticError):
    """The loss of a training run is not finite."""


class ManifestError(WsiAttnError, ValueError):
    """An invalid manifest; the message names the file, and the row if one is responsible."""


class FeatureError(WsiAttnError, ValueError):
    """A file of stored features that cannot be used; the message names it, and the row of a manifest."""


class PredictionError(WsiAttnError, ValueError):
    """A prediction file that cannot be read."""


class ExportError(WsiAttnError, ValueError):
    """Content that a format cannot represent, or nothing to export."""


# outputs --------------------------------------------------------------------------------------------------


class OutputError(WsiAttnError):
    """Base of errors of outputs; `path` is the output."""

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class OutputExistsError(OutputError, FileExistsError):
    """The output is something else, of another input or other parameters, or is reserved for another input."""


class OutputBusyError(OutputError, RuntimeError):
    """Another process is writing the output."""


class MissingExtraError(WsiAttnError, ImportError):
    """An optional dependency is not installed."""

    exit_code = ExitCode.EXTRA_MISSING


def as_failure(path: Path, error: Exception) -> WsiAttnError:
    """Return the error of one input of a batch that continues with the next one, from any exception."""
    if isinstance(error, WsiAttnError):
        return error
    if isinstance(error, MemoryError):
        return SlideReadError(f"Not enough memory for {path}; use a machine with more, or fewer --threads")
    if isinstance(error, OSError):
        return SlideReadError(f"Cannot access {error.filename or path}: {error.strerror or error}")
    failure = UnexpectedError(
        f"{path}: unexpected {type(error).__name__}: {error}; rerun with --debug for the traceback"
    )
    failure.__cause__ = error
    return failure
