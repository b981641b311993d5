"""Every exception of the toolkit, and the exit code each becomes at the command line.

One base, `WsiAttnError`; each leaf also derives from the built-in that a caller would catch. A message says
what failed and where, and what to do next; facts a program may need are attributes. Nothing here imports
anything, so every layer may raise.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns to the shell."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    INVALID_INPUT = 3
    SOME_FAILED = 4
    EXTRA_MISSING = 5
    INTERRUPTED = 130


class WsiAttnError(Exception):
    """Base of all errors that the toolkit raises on purpose."""

    exit_code = ExitCode.INVALID_INPUT


class UsageError(WsiAttnError, ValueError):
    """Options that contradict each other or are out of range."""

    exit_code = ExitCode.USAGE


class UnknownNameError(UsageError):
    """A name that no registry knows; near misses are in the message."""


# slides ---------------------------------------------------------------------------------------------------


class SlideError(WsiAttnError):
    """Base of what can go wrong with a slide or image file."""


class SlideNotFoundError(SlideError, FileNotFoundError):
    """The path does not exist."""


class SlideUnsupportedError(SlideError, ValueError):
    """No reader can open the file; the message carries each reader's reason."""


class SlideReadError(SlideError, OSError):
    """A region could not be decoded; the rest of the slide may be fine."""


class SlideTruncatedError(SlideError, OSError):
    """The file ends before its pixels do: an unfinished copy or transfer."""


class NotEncodedError(SlideError, ValueError):
    """The compressed tiles of a level cannot be handed out as they are; the message says why."""


class TileDecodeError(SlideError, ValueError):
    """The bytes of one tile cannot be decoded."""


class RegionError(SlideError, ValueError):
    """A level that does not exist or a size that is not positive."""


class MissingMppError(SlideError, ValueError):
    """A pixel size is needed and the file does not give a plausible one."""


class TissueError(WsiAttnError, ValueError):
    """No tissue where tissue is needed."""


# stores ---------------------------------------------------------------------------------------------------


class StoreError(WsiAttnError):
    """Base of what can go wrong with a store."""


class StoreExistsError(StoreError, FileExistsError):
    """Something else lies where the output should go."""


class StoreSchemaError(StoreError, ValueError):
    """A path that is not a wsi-attn store, or a store of an unknown schema version."""


class StoreDamagedError(StoreError, ValueError):
    """A file of a store is missing or has changed, or its metadata is invalid; the message names the file."""


class StoreIncompleteError(StoreError, ValueError):
    """The store was never finished; tiling again resumes it."""


class StoreLockedError(StoreError, RuntimeError):
    """Another process is writing this store."""


# models and data ------------------------------------------------------------------------------------------


class ModelError(WsiAttnError):
    """Base of what can go wrong with a model."""


class CheckpointError(ModelError, ValueError):
    """A folder that is not a checkpoint of ours, or whose parts do not agree."""


class ModelMismatchError(ModelError, ValueError):
    """The input's stain or pixel size lies outside what the model was trained on."""


class DivergedError(ModelError, ArithmeticError):
    """The loss of a training run is no number any more."""


class ManifestError(WsiAttnError, ValueError):
    """A manifest that cannot be used; the message names the file, and the row where one is at fault."""


class PredictionError(WsiAttnError, ValueError):
    """A prediction file that cannot be read."""


class ExportError(WsiAttnError, ValueError):
    """Something that a format cannot hold, or that there is not to export."""


class OutputExistsError(WsiAttnError, FileExistsError):
    """Output that is not ours, or of other parameters, lies in the way."""


class MissingExtraError(WsiAttnError, ImportError):
    """An optional dependency is not installed."""

    exit_code = ExitCode.EXTRA_MISSING
