"""PNG: the image of `heatmap`, or its colours alone."""

from __future__ import annotations

from wsi_attn.export.config import PNG_SIDE
from wsi_attn.export.exporter import Entries, Exporter
from wsi_attn.export.job import Job
from wsi_attn.heatmaps.picture import colours_alone, draw_layer, png_bytes
from wsi_attn.outputs import files
from wsi_attn.slides.view import read_view


def _export(job: Job) -> Entries:
    config, frame, layer = job.config, job.frame(PNG_SIDE), job.layer()
    shown = {"of": layer.name, "downsample": [frame.downsample_x, frame.downsample_y]}
    if config.transparent:
        image = colours_alone(layer, frame, config)
    else:
        factors = frame.downsample_x, frame.downsample_y
        with job.subject.pixels() as slide:
            view = read_view(slide, *factors, workers=config.workers, progress=job.progress)
        job.progress(0, 1, "drawing")
        image = draw_layer(layer, job.subject.caption, view.pixels, frame, config)
    files.write_bytes(job.path, png_bytes(image, {**job.subject.origin, **shown}))
    return shown


PNG = Exporter(
    (".png",),
    ("of", "mode", "alpha", "colour", "size", "downsample", "transparent"),
    write=_export,
    named=True,
)
