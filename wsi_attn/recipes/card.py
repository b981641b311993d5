"""The card of a shipped model: data and licence, split, metrics beside the baseline, limitations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from wsi_attn.data.manifest import Row
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.systems import plain_config
from wsi_attn.train.card import METRICS, NOT_FOR


def recipe_card(
    name: str,
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    report: dict[str, Any],
    baseline: dict[str, Any],
    about: Sequence[str],
    not_for: Sequence[str],
    checks: Sequence[str],
    command: str,
    seed: int,
) -> str:
    """Return the card as Markdown."""
    spec, network = checkpoint.spec, plain_config(checkpoint.network.config)
    resolution = (
        f"{spec.mpp:g} µm/px" if spec.mpp else "native resolution of the image; the pixel size was unknown in training"
    )
    labels = spec.labels
    lines = [f"# {name}", "", *(text for paragraph in about for text in (paragraph, ""))]
    lines += [
        f"- System: {checkpoint.system}; weights sha256 `{checkpoint.sha256}`",
        f"- Labels: {', '.join(labels)}",
        f"- Stain: {spec.stain}",
        f"- Resolution: {resolution}",
        f"- Key instances: {network['instances']}; smoothing: {network['smoothing']:g} px",
        f"- Built by: `{command}` (seed {seed})",
        "",
        "## Split",
        "",
        "| split | fields | groups | " + " | ".join(labels) + " |",
        "|---|---|---|" + "---|" * len(labels),
    ]
    for split in ("train", "val", "test"):
        part = [row for row in rows if row.split == split]
        counts = Counter(row.label for row in part)
        groups = len({row.patient for row in part})
        lines.append(
            f"| {split} | {len(part)} | {groups} | " + " | ".join(str(counts[label]) for label in labels) + " |"
        )
    lines += [
        "",
        "## Results on the test set, which training never used",
        "",
        f"{report['n']} fields in {report['groups']} groups; 95 % intervals from 1,000 resamples of groups, "
        f"seed {seed}.",
        "",
        "| metric | model | 95 % interval | thumbnail SVM | 95 % interval |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {metric} | {_cells(report[metric])} | {_cells(baseline[metric])} |" for metric in METRICS]
    lines += ["", f"Chance level: balanced accuracy {1 / len(labels):.3f}, AUROC 0.5.", ""]
    lines += [text for check in checks for text in (check, "")]
    lines += ["## Limitations", "", NOT_FOR, *(text for paragraph in not_for for text in ("", paragraph)), ""]
    return "\n".join(lines)


def _cells(metric: dict[str, float | None]) -> str:
    value, low, high = (
        "undefined" if metric[key] is None else f"{metric[key]:.3f}" for key in ("value", "low", "high")
    )
    return f"{value} | {low} to {high}"
