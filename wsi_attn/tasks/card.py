"""The card of a model as Markdown: what it is, its data, its metrics, its limitations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from wsi_attn.data.manifest import Row
from wsi_attn.evaluate.intervals import Interval

NOT_FOR = (
    "Research and demonstration only. Not a medical device, not validated for diagnosis, treatment or any decision "
    "about a patient."
)

Section: TypeAlias = tuple[str, Sequence[str]]
"""A heading, and blocks of text, each a paragraph or a table."""


def write_card(name: str, about: Sequence[str], facts: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the card.

    Parameters
    ----------
    about
        Paragraphs below the name.
    facts
        Lines of a list.
    sections
        What follows; limitations come last and begin with `NOT_FOR`.
    """
    blocks = [f"# {name}", *about, "\n".join(f"- {fact}" for fact in facts)]
    for heading, parts in sections:
        blocks += [f"## {heading}", *parts]
    return "\n\n".join(blocks) + "\n"


def split_table(
    rows: Sequence[Row],
    splits: Sequence[str],
    labels: Sequence[str],
    units: tuple[str, str] = ("images", "patients"),
) -> str:
    """Return a table of the number of images and patients in each split, and of the images with each label."""
    lines = [table_row(["split", *units, *labels]), "|---|---|---|" + "---|" * len(labels)]
    for split in splits:
        part = [row for row in rows if row.split == split]
        counts = Counter(row.label for row in part)
        patients = len({row.patient for row in part})
        lines.append(table_row([split, str(len(part)), str(patients), *(str(counts[label]) for label in labels)]))
    return "\n".join(lines)


def metrics_table(metrics: Mapping[str, Interval]) -> str:
    """Return a table of metrics: value, 95 % interval from resampling patients; undefined ones are left out."""
    lines = ["| metric | value | 95 % interval |", "|---|---|---|"]
    for name, found in metrics.items():
        if found.value is not None:
            interval = "too few patients" if found.low is None else f"{found.low:.3f} to {found.high:.3f}"
            lines.append(table_row([name, f"{found.value:.3f}", interval]))
    return "\n".join(lines)


def table_row(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"
