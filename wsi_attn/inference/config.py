"""Settings of an evaluation. Imports no arrays, so that the help of the command needs none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wsi_attn.errors import UsageError
from wsi_attn.options import Option, check_fields


@dataclass(frozen=True)
class EvaluateConfig:
    """Which rows are evaluated, and an optional operating point.

    Raises
    ------
    UsageError : a sensitivity without a positive label, or the reverse.
    """

    split: Annotated[str, Option("Rows to evaluate: train, val, test or all.")] = "test"
    seed: Annotated[int, Option("Random seed.")] = 0
    sensitivity: Annotated[
        float | None,
        Option("Target sensitivity of --positive; the threshold comes from the validation set.", above=0, at_most=1),
    ] = None
    positive: Annotated[str | None, Option("Positive label for --sensitivity.", metavar="LABEL")] = None

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.sensitivity is None) != (self.positive is None):
            raise UsageError("--sensitivity and --positive must be used together")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: its manifest, its settings, and the command line for the report."""

    manifest: Path
    config: EvaluateConfig
    command: str = ""
