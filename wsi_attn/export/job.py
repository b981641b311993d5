"""`Job`: what an exporter writes, where, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsi_attn.errors import ExportError, UsageError
from wsi_attn.export.config import ExportConfig
from wsi_attn.export.exporter import EXPORTERS, Exporter
from wsi_attn.export.source import NO_LAYER, ExportSource
from wsi_attn.geometry import Frame
from wsi_attn.heatmaps.layer import Layer
from wsi_attn.slide import Progress, no_progress


@dataclass(frozen=True)
class Job:
    """One input in one format; `to` is the name of the format."""

    subject: ExportSource
    to: str
    path: Path
    config: ExportConfig
    progress: Progress = no_progress

    @property
    def exporter(self) -> Exporter:
        """The format; raises `UnknownNameError`."""
        return EXPORTERS.get(self.to)

    @property
    def of(self) -> str:
        """Name of the quantity shown by a format with one quantity; `NO_LAYER` for pixels without colours."""
        config, subject = self.config, self.subject
        if len(config.of) > 1:
            raise UsageError(f"{self.to} contains one quantity, but --of lists {len(config.of)}; html supports several")
        if config.of:
            return config.of[0]
        pixels = self.exporter.of_pixels and subject.prediction is None and not config.values
        return NO_LAYER if pixels or not subject.layers else subject.layers[0]

    def layer(self) -> Layer:
        """Raster of the quantity shown by a format with one quantity.

        Raises
        ------
        ExportError : the input has no quantity.
        """
        if self.of == NO_LAYER:
            raise ExportError(
                f"{self.to} shows a quantity, but {self.subject.path} has none to show; use ome-tiff, dzi or html for "
                "the slide alone"
            )
        return self.subject.layer(self.of)

    def frame(self, side: int | None, least: float = 1.0) -> Frame:
        """Frame of images: as requested, otherwise `side` pixels along the longer side, with a downsample of at least
        `least`.
        """
        config, size0 = self.config, self.subject.size0
        size = config.size or side
        downsample = config.downsample or max(least, max(size0) / size if size else 1.0)
        return Frame.covering(size0, downsample, downsample)

    def require_values(self) -> None:
        """Raise `ExportError` if the input has no quantity at all."""
        if not self.subject.layers:
            raise ExportError(f"{self.subject.path} has no values; {self.to} needs a prediction or a store")
