"""`export_subject`: export one input to one format, and its output path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from wsi_attn.errors import UsageError
from wsi_attn.export.config import ExportConfig
from wsi_attn.export.exporter import EXPORTERS, Entries
from wsi_attn.export.finished import compared_output, export_output, is_zarr, mark_of
from wsi_attn.export.job import Job
from wsi_attn.export.source import NO_LAYER, ExportSource
from wsi_attn.outputs import files, names
from wsi_attn.outputs.policy import State, claim
from wsi_attn.slide import Progress, no_progress


def target_of(subject: ExportSource, to: str, output: Path, config: ExportConfig) -> Path:
    """Output path: `output` itself if it has the suffix of the format, otherwise a file in it named after the subject.

    `STEM.QUANTITY.SUFFIX` for formats with one quantity, otherwise `STEM.SUFFIX`; colons become hyphens.
    """
    exporter = EXPORTERS.get(to)
    first = exporter.suffixes[0]
    if output.name.endswith(exporter.suffixes) and not (exporter.zarr and output.is_dir() and not is_zarr(output)):
        return output
    if output.suffix.lower() in names.FILE_SUFFIXES and not output.exists():
        raise UsageError(f"--output {output}: files of --to {to} end with {first}; rename it or name a folder")
    of = Job(subject, to, output, config).of if exporter.named else NO_LAYER
    name = "" if of == NO_LAYER else f".{of.replace(':', '-')}"
    return output / f"{subject.stem}{name}{first}"


def export_subject(
    subject: ExportSource,
    to: str,
    path: Path,
    config: ExportConfig,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Mapping[str, object]:
    """Export one input to one format.

    Returns
    -------
    `input`, `slide`, `format`, `output`, `state` ("written", or "skipped" if the same output exists), and
    format-specific entries: `of`, `downsample`, `rows`, `features`, `features_left_out`, `unreadable_tiles`.

    Raises
    ------
    OutputExistsError : the output exists, is something else, and `overwrite` is not set.
    UnknownNameError : there is no such quantity.
    PredictionError, SlideError : the slide is missing, is a different one, or is unreadable.
    ExportError : there is nothing to export in this format.
    """
    record = {
        "input": str(subject.path),
        "slide": str(subject.slide),
        "format": to,
        "output": str(path),
    }
    if path.resolve() in (subject.slide.resolve(), subject.path.resolve()):
        raise UsageError(f"{path} is the input; choose another --output")
    exporter = EXPORTERS.get(to)
    if exporter.contents is not None:
        return {**record, **_compared(Job(subject, to, path, config, progress), overwrite=overwrite)}
    mark = mark_of(subject, to, config)
    with claim(export_output(mark, path, exporter), overwrite=overwrite) as found:
        if found.state is State.COMPLETE:
            return {**record, "state": "skipped"}
        progress(0, 1, "writing")
        job = Job(replace(subject, mark=mark.text), to, path, config, progress)
        return {**record, "state": "written", **(exporter.write(job) if exporter.write else {})}


def _compared(job: Job, *, overwrite: bool) -> Entries:
    """Export to a format without a place for a mark; return its state and entries."""
    job.progress(0, 1, "writing")
    data, entries = job.exporter.contents(job) if job.exporter.contents else (b"", {})
    with claim(compared_output(data, job.path), overwrite=overwrite) as found:
        done = found.state is State.COMPLETE
        if not done:
            files.write_bytes(job.path, data)
        return {"state": "skipped" if done else "written", **entries}
