"""What is said of each epoch: a table beside the run, TensorBoard where it is wanted, and whoever listens."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsi_attn import files
from wsi_attn.errors import MissingExtraError

STEP = "epoch"
"""The column that counts; all others are curves."""


class EpochLog:
    """Takes one record of named numbers an epoch.

    The table is written anew each time, so that a resumed run, which tells its old epochs again, leaves no gap and no
    repeat; for the same reason TensorBoard's folder begins empty.

    Parameters
    ----------
    path
        The CSV; None on all ranks but the first, which then write nothing and tell nobody.
    board
        Folder for TensorBoard, or None.
    tell
        Told each record.

    Raises
    ------
    MissingExtraError : TensorBoard is wanted and not installed.
    """

    def __init__(self, path: Path | None, board: Path | None, tell: Callable[[dict[str, float]], None]) -> None:
        self._path = path
        self._tell = tell
        self._records: list[dict[str, float]] = []
        self._writer = _writer(board) if path and board else None

    def __call__(self, record: dict[str, float]) -> None:
        """One epoch is finished."""
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
        """Finish TensorBoard's file."""
        if self._writer:
            self._writer.close()


def check_tensorboard() -> None:
    """Say before the first epoch, not after it, that TensorBoard is missing; raises as `EpochLog`."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("--tensorboard needs tensorboard: pip install 'wsi-attn[logs]'") from error


def _writer(folder: Path) -> Any:
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    return SummaryWriter(str(folder))
