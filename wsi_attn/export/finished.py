"""Detection of existing outputs of the same input and settings, which need not be written again.

Every export carries a mark, a digest of its input and settings, in a text field of its format. Only CSV has none: it is
written to a temporary file and compared.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsi_attn import __version__
from wsi_attn.export.source import ExportSource
from wsi_attn.store.predictions import SlidePrediction

SEARCHED = 1 << 20
"""Bytes at either end of a file that are searched for its mark."""

BLOCK = 1 << 20


@dataclass(frozen=True)
class Mark:
    """A digest as text."""

    text: str

    def is_in(self, path: Path) -> bool:
        """Whether the output at `path`, a file or a Zarr group, carries this mark."""
        file = path / "zarr.json" if path.is_dir() else path
        try:
            with file.open("rb") as opened:
                head = opened.read(SEARCHED)
                opened.seek(max(0, file.stat().st_size - SEARCHED))
                return self.text.encode() in head or self.text.encode() in opened.read(SEARCHED)
        except OSError:
            return False


def mark_of(subject: ExportSource, to: str, config: Any) -> Mark:
    """The mark of one input in one format; `config` is a dataclass, whose `workers` is ignored."""
    options = {name: value for name, value in asdict(config).items() if name != "workers"}
    words = {"format": to, "software": __version__, "fingerprint": subject.fingerprint, "grid": subject.grid, **options}
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    if subject.prediction:
        digest.update(json.dumps(_identity(subject.prediction), sort_keys=True).encode())
    for file in _files_of(subject):
        digest.update(os.fsencode(file.name))
        with file.open("rb") as opened:
            while block := opened.read(BLOCK):
                digest.update(block)
    return Mark(f"wsi-attn-export-{digest.hexdigest()}")


def _identity(prediction: SlidePrediction) -> dict[str, Any]:
    """Values that identify a prediction, equal in memory and after reading it from its file.

    Numbers are rounded, since the last digits on a GPU differ between runs.
    """
    return {
        "slide": Path(prediction.slide).name,
        "label": prediction.label,
        "model": prediction.model,
        "software": prediction.software,
        "mpp": prediction.mpp,
        "probabilities": {name: round(value, 3) for name, value in prediction.probabilities.items()},
        "uncertainty": {name: round(value, 3) for name, value in prediction.uncertainty.items()},
        "regions": [[region.x, region.y, region.width, region.height] for region in prediction.attention],
        "maps": sorted(prediction.maps),
    }


def _files_of(subject: ExportSource) -> Iterator[Path]:
    """The files of a store that an export depends on, besides the slide's pixels."""
    if subject.store:
        yield subject.path / "zarr.json"
        yield from sorted(file for file in (subject.path / "tiles" / subject.grid).rglob("*") if file.is_file())
