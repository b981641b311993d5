"""Limiting the JSON of a prediction to `MAX_BYTES` for any slide, number of labels and names.

Each field that grows with its input has a budget; a longer field is shortened, named in `truncated`, and stored in full
in the group of the maps. The budgets add up to less than `MAX_BYTES`, including paths of maximum length.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from wsi_attn.json_types import Json, JsonObject

Item = TypeVar("Item", bound=Json)

MAX_BYTES = 100_000
"""Maximum size of a record."""

REGIONS = 100
"""Maximum number of regions in a record; images outline ten of them, pages and contact sheets show a few dozen."""

TEXT_BYTES = {"label": 2_000, "model": 2_000}
LIST_BYTES = {
    "probabilities": 20_000,
    "attention": 20_000,
    "prediction_set": 8_000,
    "warnings": 8_000,
    "uncertainty": 4_000,
    "software": 4_000,
}
"""Budget of each field in bytes of formatted JSON."""

ELLIPSIS = "…"


def shorten(record: Mapping[str, Json]) -> tuple[JsonObject, JsonObject]:
    """Shorten the fields of a record that exceed their budgets.

    Parameters
    ----------
    record
        A prediction record as JSON values, with untruncated fields.

    Returns
    -------
    The shortened record, and the full values of the shortened fields.
    """
    short = dict(record)
    short["label"] = _cut(record["label"], TEXT_BYTES["label"])
    if isinstance(model := record["model"], dict):
        short["model"] = {name: _cut(text, TEXT_BYTES["model"] // 2) for name, text in model.items()}
    for name, budget in LIST_BYTES.items():
        value = record.get(name)
        if isinstance(value, list):
            most = REGIONS if name == "attention" else len(value)
            short[name] = list(_leading(value[:most], budget))
        elif isinstance(value, dict) and _size(value) > budget:
            likeliest = name == "probabilities"
            items = sorted(value.items(), key=lambda item: -_number(item[1])) if likeliest else list(value.items())
            short[name] = dict(_leading(items, budget))
    complete = {name: value for name, value in record.items() if short[name] != value}
    return short, complete


def to_text(record: Mapping[str, Json]) -> str:
    """Text of a record's file."""
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _leading(items: Iterable[Item], budget: int) -> Iterator[Item]:
    """The first items that fit."""
    left = budget
    for item in items:
        left -= _size(item)
        if left < 0:
            return
        yield item


def _size(value: Json) -> int:
    """Bytes of a value on separate lines at its depth in a record."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return len(text.encode("utf-8", "backslashreplace")) + 3 * (text.count("\n") + 2)


def _number(value: Json) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _cut(text: Json, budget: int) -> Json:
    if not isinstance(text, str) or _size(text) <= budget:
        return text
    fitting = bisect_right(range(1, len(text)), budget, key=lambda length: _size(text[:length] + ELLIPSIS))
    return text[:fitting] + ELLIPSIS
