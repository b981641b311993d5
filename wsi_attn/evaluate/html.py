"""The report of `evaluate` as a self-contained HTML file with tables and plots, without scripts or network access."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_attn.evaluate.report import Report
from wsi_attn.html import render
from wsi_attn.outputs import files

WORDS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "ece": "expected calibration error",
    "brier": "Brier score",
    "nll": "negative log-likelihood",
    "macro_f1": "macro F1",
    "f1": "F1",
    "iou": "IoU",
    "boundary_f": "boundary F",
    "object_f1": "object F1",
    "image_dice": "Dice, mean over images",
    "places_hit": "a place that was read touches the region",
    "mass_in_region": "attention inside the region",
}


@dataclass(frozen=True)
class Picture:
    """An uncertain image: a JPEG, its caption, and whether the prediction was right."""

    jpeg: bytes
    caption: str
    right: bool

    @property
    def base64(self) -> str:
        """The JPEG as text."""
        return base64.b64encode(self.jpeg).decode()


def write_html_report(path: Path, found: Report, pictures: Sequence[Picture] = ()) -> None:
    """Write the page atomically.

    Parameters
    ----------
    path
        The HTML file.
    found
        The report; sections that the page knows are drawn.
    pictures
        The most uncertain images, most uncertain first.
    """
    report = {**found.record(), "counted": found.counted}
    helpers = {"measures": _measures, "cells": _cells, "texts": _texts, "number": _number, "word": _word}
    files.write_text(path, render("evaluate/report.html.jinja", report=report, pictures=pictures, **helpers))


def _measures(section: Mapping[str, object]) -> dict[str, str]:
    """Names of the values with an interval, and their words."""
    return {
        key: _word(key)
        for key, value in section.items()
        if isinstance(value, dict) and set(value) == {"value", "low", "high"}
    }


def _cells(found: Mapping[str, float | None]) -> tuple[str, str]:
    """Format value and interval."""
    value, low, high = (found[key] for key in ("value", "low", "high"))
    return _number(value), "" if low is None else f"[{_number(low)}, {_number(high)}]"


def _texts(section: Mapping[str, Mapping[str, float | None]], keys: Iterable[str]) -> list[str]:
    """Format values with their intervals; empty where one is missing."""
    return [" ".join(_cells(section[key])) if key in section else "" for key in keys]


def _number(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_number(part) for part in value)
    return "-" if value is None else f"{value:.3f}"


def _word(key: str) -> str:
    return WORDS.get(key, key.replace("_", " "))
