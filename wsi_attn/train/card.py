"""The card of a trained model: data, metrics, limitations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from wsi_attn.data.manifest import Row
from wsi_attn.models.spec import ModelSpec
from wsi_attn.tasks.config import TrainConfig

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "auprc", "ece")

NOT_FOR = (
    "Research and demonstration only. Not a medical device, not validated for diagnosis, treatment or any decision "
    "about a patient."
)


def write_card(
    name: str,
    rows: Sequence[Row],
    labels: Sequence[str],
    spec: ModelSpec,
    config: TrainConfig,
    metrics: dict[str, Any],
    command: str,
) -> str:
    """Return the card as Markdown."""
    resolution = (
        f"{spec.mpp:g} µm/px" if spec.mpp else "native resolution of the image (pixel size unknown in training)"
    )
    lines = [
        f"# {name}",
        "",
        f"A {config.system} model that predicts one of: {', '.join(labels)}.",
        "",
        f"- Stain: {spec.stain}",
        f"- Resolution: {resolution}",
        f"- Built by: `{command}`" if command else "- Built by: the `train` function of the library",
        f"- Seed: {config.seed}",
        "",
        "## Data",
        "",
        "| split | images | patients | " + " | ".join(labels) + " |",
        "|---|---|---|" + "---|" * len(labels),
    ]
    for split in ("train", "val"):
        part = [row for row in rows if row.split == split]
        counts = Counter(row.label for row in part)
        patients = len({row.patient for row in part})
        lines.append(
            f"| {split} | {len(part)} | {patients} | " + " | ".join(str(counts[label]) for label in labels) + " |"
        )
    lines += [
        "",
        "## Metrics on the validation set",
        "",
        *metrics_table(metrics),
        "",
        "## Limitations",
        "",
        NOT_FOR,
        "",
    ]
    return "\n".join(lines)


def metrics_table(metrics: dict[str, Any], names: Sequence[str] = METRICS) -> list[str]:
    """Return the rows of a Markdown table: metric, value, 95 % interval from resampling patients."""
    lines = ["| metric | value | 95 % interval |", "|---|---|---|"]
    for metric in names:
        found = metrics[metric]
        if found["value"] is not None:
            known = found["low"] is not None  # there is no interval for too few patients
            interval = f"{found['low']:.3f} to {found['high']:.3f}" if known else "too few patients"
            lines.append(f"| {metric} | {found['value']:.3f} | {interval} |")
    return lines
