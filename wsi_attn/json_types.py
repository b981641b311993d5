"""Types of JSON values, for signatures of functions that make or take JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Json: TypeAlias = "int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""A value of a JSON document; bool is an int."""

JsonObject: TypeAlias = dict[str, Json]
"""An object that its owner may still extend; parameters that are only read are `Mapping[str, Json]`."""
