"""The report of `evaluate` as a self-contained HTML file with tables and plots, without scripts or network access."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from wsi_attn.evaluate.report import Report
from wsi_attn.evaluate.svg import Line, plot
from wsi_attn.outputs import files

NOTICE = "Research use only. Not a medical device, not validated for any decision about a patient."

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.notice { border-left: 4px solid #d55e00; padding: .4rem .8rem; background: #fdf1ea; }
table { border-collapse: collapse; margin: .6rem 0; } th, td { padding: .2rem .7rem; text-align: right; }
th { border-bottom: 1px solid #888; } td { white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; } caption { text-align: left; color: #555; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } svg { font: 12px system-ui, sans-serif; }
svg .title { font-weight: 600; } svg .frame { fill: none; stroke: #888; }
figure { margin: 0; width: 20rem; } figure img { width: 100%; } figure.wrong img { outline: 3px solid #d55e00; }
svg .line { fill: none; stroke-width: 1.6; } svg .chance { fill: none; stroke: #888; stroke-dasharray: 4 3; }
"""

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
    title = f"{report['model'].get('name', 'model')}: {report['split']}"
    body = [f"<h1>{escape(title)}</h1>", f'<p class="notice">{NOTICE}</p>']
    for heading, section in SECTIONS:
        if parts := section(report):
            body += [f"<h2>{heading}</h2>", *parts]
    if pictures:
        body += ["<h2>Most uncertain images, with attention</h2>", *_pictures(pictures)]
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )
    files.write_text(path, page)


def _origin(report: Mapping[str, Any]) -> list[str]:
    intervals = report["intervals"]
    facts = {
        "images": f"{report['n']} of {report['groups']} patients or groups, split {report['split']}",
        "labels": ", ".join(report["labels"]),
        "model": " ".join(str(value) for value in report["model"].values()),
        "folds, whose probabilities are averaged": ", ".join(fold["name"] for fold in report.get("folds", ())),
        "intervals": f"{intervals['level']:.0%}, {intervals['method']}, {intervals['resamples']} resamples",
        "seed": report["seed"],
        "command": report["command"],
        "software": ", ".join(f"{name} {version}" for name, version in report["software"].items()),
    }
    said = {name: escape(str(fact)) for name, fact in facts.items() if fact != ""}
    rows = [f'<tr><td>{name}</td><td class="text">{fact}</td></tr>' for name, fact in said.items()]
    return ["<table>", *rows, "</table>"]


def _metrics(report: Mapping[str, Any]) -> list[str]:
    """Every overall metric."""
    return _table(("metric", "value", "interval"), ([_word(key), *_cells(report[key])] for key in _measures(report)))


def _classes(report: Mapping[str, Any]) -> list[str]:
    classes: Mapping[str, Any] = report.get("per_class", {})
    keys = _measures(next(iter(classes.values()), {}))
    head = ("label", report["counted"], *(_word(key) for key in keys))
    rows = [
        [name, str(found["support"]), *(" ".join(_cells(found[key])) for key in keys)]
        for name, found in classes.items()
    ]
    return _table(head, rows) if rows else []


def _measures(section: Mapping[str, Any]) -> list[str]:
    """Names of the values with an interval."""
    return [key for key, value in section.items() if isinstance(value, dict) and set(value) == {"value", "low", "high"}]


def _confusion(report: Mapping[str, Any]) -> list[str]:
    """Shade rows by the share of the true label's images."""
    if "confusion_matrix" not in report:
        return []
    names = report["labels"]
    lines = ["<table>", "<caption>Rows: true label. Columns: predicted label.</caption>"]
    lines.append("<tr><th></th>" + "".join(f"<th>{escape(name)}</th>" for name in names) + "</tr>")
    for name, counts in zip(names, report["confusion_matrix"], strict=True):
        total = max(1, sum(counts))
        cells = "".join(f'<td style="background: rgb(0 114 178 / {0.7 * n / total:.2f})">{n}</td>' for n in counts)
        lines.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return [*lines, "</table>"]


def _curves(report: Mapping[str, Any]) -> list[str]:
    found = report.get("curves")
    if not found:
        return []
    roc = [Line(name, line["x"], line["y"]) for name, line in found["roc"].items()]
    recall = [Line(name, line["x"], line["y"]) for name, line in found["precision_recall"].items()]
    risk = Line("errors", found["risk_coverage"]["x"], found["risk_coverage"]["y"])
    return [
        '<div class="plots">',
        plot("ROC, one against the rest", "1 - specificity", "sensitivity", roc, diagonal="rising"),
        plot("Precision and recall", "recall", "precision", recall),
        plot("Errors among the surest answers", "share answered", "share wrong", [risk]),
        "</div>",
    ]


def _calibration(report: Mapping[str, Any]) -> list[str]:
    """Reliability before and after temperature scaling, if available."""
    if "reliability" not in report:
        return []
    found = report.get("calibration") or {}
    parts = {name: found[name] for name in ("before", "after") if name in found}
    bins = {name: part["reliability"] for name, part in parts.items()} or {"as answered": report["reliability"]}
    lines = [
        Line(name, [row["confidence"] for row in rows], [row["accuracy"] for row in rows], dots=True)
        for name, rows in bins.items()
    ]
    drawn = plot("Reliability", "largest probability", "share right", lines, diagonal="rising")
    if not parts:
        return [f'<div class="plots">{drawn}</div>']
    errors = ("ece", "brier", "nll")
    rows = [[_word(key), *(" ".join(_cells(part[key])) for part in parts.values())] for key in errors]
    said = [f"<p>Temperature {escape(_number(found['temperature']))}. {escape(found['note'])}</p>"]
    return [*said, *_table(("error", *parts), rows), f'<div class="plots">{drawn}</div>']


def _conformal(report: Mapping[str, Any]) -> list[str]:
    found = report.get("conformal")
    if not found:
        return []
    measures = ("coverage", "set_size", "unsure")
    rows = [
        [
            name,
            _number(at["threshold"]) if at["threshold"] is not None else "too few validation images",
            *(" ".join(_cells(at[key])) if key in at else "" for key in measures),
        ]
        for name, at in found["coverages"].items()
    ]
    head = ("asked", "threshold", "measured coverage", "mean size of a set", "unsure")
    return [f"<p>{escape(found['note'])}</p>", *_table(head, rows)]


def _operating(report: Mapping[str, Any]) -> list[str]:
    found = report.get("operating_point")
    if not found:
        return []
    said = (
        f"<p>{escape(found['positive'])} is predicted where its probability is at least {_number(found['threshold'])}, "
        f"chosen on {escape(found['chosen_on'])} for a sensitivity of {found['wanted_sensitivity']:g}.</p>"
    )
    keys = ("sensitivity", "specificity", "precision", "negative_predictive_value")
    return [said, *_table(("measure", "value", "interval"), ([_word(key), *_cells(found[key])] for key in keys))]


def _uncertainty(report: Mapping[str, Any]) -> list[str]:
    found = report.get("uncertainty")
    if not found:
        return []
    by, passes = _word(found["by"]), found["passes"]
    said = (
        f"Images are ranked by {by}{f' of {passes} passes with dropout' if passes else ''}; the least sure come last."
    )
    terms = [
        [_word(name), *(" ".join(_cells(term[key])) for key in ("aurc", "right", "wrong"))]
        for name, term in found["terms"].items()
    ]
    best = ["best possible order", " ".join(_cells(found["aurc_optimal"])), "", ""]
    referral = [
        [f"{float(share):.0%}", str(row["answered"]), *_cells(row["error"])] for share, row in found["referral"].items()
    ]
    lines = [
        Line(name, found[key]["x"], found[key]["y"])
        for name, key in ((by, "risk_coverage"), ("best possible order", "risk_coverage_optimal"))
    ]
    return [
        f"<p>{escape(said)}</p>",
        *_table(("uncertainty", "AURC", "mean of right answers", "mean of wrong answers"), [*terms, best]),
        *_table(("least sure referred", "images left", "share of them wrong", "interval"), referral),
        f'<div class="plots">{plot("Risk over coverage", "share answered", "share wrong", lines)}</div>',
    ]


def _pictures(pictures: Sequence[Picture]) -> list[str]:
    figures = [
        f'<figure class="{"right" if picture.right else "wrong"}">'
        f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    ]
    return ['<div class="plots">', *figures, "</div>"]


def _attention(report: Mapping[str, Any]) -> list[str]:
    found = report.get("attention")
    if not found:
        return []
    measures = [(key, value) for key, value in found.items() if isinstance(value, dict)]
    rows = ([_word(key), *_cells(value), _number(value["chance"])] for key, value in measures)
    said = f"<p>{found['n']} images with an annotated region; {found['skipped']} more could not be scored.</p>"
    return [said, *_table(("measure", "value", "interval", "chance"), rows)]


def _learned(report: Mapping[str, Any]) -> list[str]:
    """Learned attention parameters of a segmentation network."""
    found = report.get("learned_attention")
    if not found:
        return []
    keys = ("gate_mean", "beta", "gamma")
    head = ("pixels of a position", "mean gate", "beta, weight of self-attention", "gamma, weight of the branch")
    rows = ([size, *(_number(learned.get(key)) for key in keys)] for size, learned in found.items())
    return _table(head, rows)


def _unanswered(report: Mapping[str, Any]) -> list[str]:
    reasons = report.get("unanswered", [])
    return ["<ul>", *(f"<li>{escape(reason)}</li>" for reason in reasons), "</ul>"] if reasons else []


SECTIONS: tuple[tuple[str, Callable[[Mapping[str, Any]], list[str]]], ...] = (
    ("Metrics", _metrics),
    ("By label", _classes),
    ("Confusion matrix", _confusion),
    ("Curves", _curves),
    ("Calibration", _calibration),
    ("Prediction sets", _conformal),
    ("Operating point", _operating),
    ("Uncertainty", _uncertainty),
    ("Attention and annotated regions", _attention),
    ("Attention as it was learned", _learned),
    ("Images without an answer, in none of the figures", _unanswered),
    ("Origin", _origin),
)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["<table>", "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return [*lines, "</table>"]


def _cells(found: Mapping[str, float | None]) -> tuple[str, str]:
    """Format value and interval."""
    value, low, high = (found[key] for key in ("value", "low", "high"))
    return _number(value), "" if low is None else f"[{_number(low)}, {_number(high)}]"


def _number(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_number(part) for part in value)
    return "-" if value is None else f"{value:.3f}"


def _word(key: str) -> str:
    return WORDS.get(key, key.replace("_", " "))
