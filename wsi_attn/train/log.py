"""The epoch log: a CSV table, optionally TensorBoard, and a callback."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsi_attn.errors import MissingExtraError
from wsi_attn.outputs import files

STEP = "epoch"
"""The column that counts; all others are curves."""


class EpochLog:
    """Log of one record of named numbers per epoch.

    The table is rewritten after every epoch, and the TensorBoard folder starts empty, so that a resumed run, which
    repeats its earlier records, leaves neither gaps nor duplicates.

    Parameters
    ----------
    path
        Path of the CSV; None on all ranks except the first, which neither write nor call `tell`.
    board
        Folder for TensorBoard, or None.
    tell
        Called with each record.

    Raises
    ------
    MissingExtraError : TensorBoard is requested but not installed.
    """

    def __init__(self, path: Path | None, board: Path | None, tell: Callable[[dict[str, float]], None]) -> None:
        self._path = path
        self._tell = tell
        self._records: list[dict[str, float]] = []
        self._writer = _writer(board) if path and board else None

    def __call__(self, record: dict[str, float]) -> None:
        """Record a finished epoch."""
        if self._path is None:
            return
        self._records.append(record)
        columns = list(dict.fromkeys(name for entry in self._records for name in entry))
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in entry.items()} for entry in self._records)
        files.write_text(self._path, table.getvalue())
        if self._writer:
            for name, value in record.items():
                if name != STEP:
                    self._writer.add_scalar(name, value, int(record[STEP]))
            self._writer.flush()
        self._tell(record)

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._writer:
            self._writer.close()


def check_tensorboard() -> None:
    """Check before the first epoch that TensorBoard is installed; raises like `EpochLog`."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("--tensorboard needs tensorboard: pip install 'wsi-attn[logs]'") from error


def _writer(folder: Path) -> Any:
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    return SummaryWriter(str(folder))
