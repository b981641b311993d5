"""The card of a shipped model: data and licence, split, metrics beside the baseline, limitations."""

from __future__ import annotations

from collections.abc import Sequence

from wsi_attn.data.manifest import Row
from wsi_attn.evaluate.intervals import Interval
from wsi_attn.evaluate.report import Report
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.systems import plain_config
from wsi_attn.tasks.card import NOT_FOR, split_table, table_row, write_card
from wsi_attn.tasks.classification.training import METRICS


def recipe_card(
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    reports: tuple[Report, Report],
    texts: tuple[Sequence[str], Sequence[str]],
    checks: Sequence[str],
    built: str,
) -> str:
    """Return the card as Markdown.

    Parameters
    ----------
    reports
        Of the model and of the baseline.
    texts
        Paragraphs on labels, data and licence, and on what the model is not for.
    checks
        Further results.
    built
        Command and seed.
    """
    spec, network = checkpoint.spec, plain_config(checkpoint.network.config)
    report, baseline = reports
    about, not_for = texts
    native = "native resolution of the image; the pixel size was unknown in training"
    facts = [
        f"System: {checkpoint.system}; weights sha256 `{checkpoint.sha256}`",
        f"Labels: {', '.join(spec.labels)}",
        f"Stain: {spec.stain}",
        f"Resolution: {f'{spec.mpp:g} µm/px' if spec.mpp else native}",
        f"Key instances: {network['instances']}; smoothing: {network['smoothing']:g} px",
        f"Built by: {built}",
    ]
    lines = ["| metric | model | 95 % interval | thumbnail SVM | 95 % interval |", "|---|---|---|---|---|"]
    lines += [
        table_row([metric, *_cells(report.metrics[metric]), *_cells(baseline.metrics[metric])]) for metric in METRICS
    ]
    results = [
        f"{report.n} fields in {report.groups} groups; 95 % intervals from 1,000 resamples of groups, "
        f"seed {report.origin.seed}.",
        "\n".join(lines),
        f"Chance level: balanced accuracy {1 / len(spec.labels):.3f}, AUROC 0.5.",
        *checks,
    ]
    return write_card(
        checkpoint.name,
        about,
        facts,
        [
            ("Split", [split_table(rows, ("train", "val", "test"), spec.labels, ("fields", "groups"))]),
            ("Results on the test set, which training never used", results),
            ("Limitations", [NOT_FOR, *not_for]),
        ],
    )


def _cells(metric: Interval) -> tuple[str, str]:
    value, low, high = (
        "undefined" if number is None else f"{number:.3f}" for number in (metric.value, metric.low, metric.high)
    )
    return value, f"{low} to {high}"
