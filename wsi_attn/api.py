"""Public functions of the package for notebooks and scripts, thin wrappers of the code behind the commands.

A slide may be a path or an open slide or store; a model may be a name, a folder or a loaded checkpoint. Slides opened
by a function are closed when it returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from wsi_attn.data.sources import open_source
from wsi_attn.errors import UsageError
from wsi_attn.export.config import PNG_SIDE
from wsi_attn.geometry import Mpp, Size
from wsi_attn.heatmaps.appearance import Appearance
from wsi_attn.models.zoo import DEFAULT, find_model, find_models
from wsi_attn.slide import BatchProgress, OneInput, Progress, Slide, no_progress
from wsi_attn.store.predictions import SlidePrediction
from wsi_attn.store.tile_store import TileStore

if TYPE_CHECKING:
    from PIL.Image import Image

    from wsi_attn.export.config import ExportConfig
    from wsi_attn.export.source import ExportSource
    from wsi_attn.heatmaps.appearance import Mode
    from wsi_attn.models.checkpoint import Checkpoint
    from wsi_attn.tasks.classification.config import PredictConfig
    from wsi_attn.tasks.config import TrainConfig
    from wsi_attn.tasks.segmentation.config import SegmentConfig
    from wsi_attn.tasks.segmentation.record import SegmentationRecord
    from wsi_attn.tiling.config import TileConfig
    from wsi_attn.tissue.mask import TissueMask

PathLike: TypeAlias = str | Path
MicronsPerPixel: TypeAlias = float | tuple[float, float]


def open_slide(path: PathLike, *, mpp: MicronsPerPixel | None = None) -> Slide:
    """Open a slide, an image or a store.

    Parameters
    ----------
    path
        The file, or the folder of a store.
    mpp
        Microns per pixel of level 0, one number or x and y; overrides the value in the file.

    Returns
    -------
    A context manager with `info` and `read_region(xy0, level, size)`, uint8 (height, width, 3).

    Raises
    ------
    SlideError, StoreError : the file is missing, damaged or of an unsupported format.
    """
    return open_source(Path(path), _mpp(mpp))


def find_tissue(slide: PathLike | Slide, *, method: str = "otsu") -> TissueMask:
    """Find the tissue of a slide, with the same mask as all commands; a store keeps that of its slide.

    Parameters
    ----------
    method
        `otsu`, `robust` or `none`, or a GeoJSON file with the tissue.
    """
    from wsi_attn.annotations.tissue_source import read_tissue

    with _opened(slide) as source:
        return read_tissue(source, method)


def tile_slide(
    slide: PathLike | Slide,
    output: PathLike = ".",
    config: TileConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> TileStore:
    """Tile a slide into a store and open the store.

    A complete store of the same slide and settings is opened unchanged, an unfinished one is resumed.

    Parameters
    ----------
    output
        The `.zarr` folder, or a folder in which to create `STEM.zarr`.
    config
        `wsi_attn.tiling.config.TileConfig`: tile size, resolution, codec, scores.
    overwrite
        Replace an existing, different store.

    Raises
    ------
    OutputExistsError : the output exists, is something else, and `overwrite` is not set.
    """
    from wsi_attn.tiling.config import TileConfig
    from wsi_attn.tiling.write import tile_slide as tile

    with _opened(slide) as source:
        target = Path(output)
        if target.suffix != ".zarr":
            target = target / f"{source.info.name}.zarr"
        tile(source, target, config or TileConfig(), overwrite=overwrite, progress=progress)
        return TileStore.open(target)


def load_model(model: PathLike = DEFAULT, *, device: str = "cpu") -> Checkpoint:
    """Load a model.

    Parameters
    ----------
    model
        The name of a shipped model, the folder of a training run, or a checkpoint folder.
    device
        A PyTorch device: `cpu`, `cuda` or `cuda:N`.

    Raises
    ------
    UnknownNameError, CheckpointError : there is no such model, or it is damaged.
    """
    from wsi_attn.models.checkpoint import load_checkpoint

    return load_checkpoint(find_model(str(model)), device)


def predict_slide(
    slide: PathLike | Slide,
    model: PathLike | Checkpoint = DEFAULT,
    config: PredictConfig | None = None,
    *,
    progress: Progress = no_progress,
) -> SlidePrediction:
    """Predict the label of a slide.

    Parameters
    ----------
    model
        A model of `load_model`, or its name or folder; load it once to predict many slides.
    config
        `wsi_attn.tasks.classification.config.PredictConfig`: coverage, exhaustive maps, dropout.

    Returns
    -------
    Label, probabilities, uncertainty, attended regions and maps. `wsi_attn.store.predictions.write_prediction` writes
    the files that the command writes.

    Raises
    ------
    ModelMismatchError, MissingMppError, TissueError : the model cannot be applied to the slide.
    """
    from wsi_attn.tasks.base import inference_of
    from wsi_attn.tasks.classification.config import PredictConfig

    inference = inference_of(_loaded(model), config or PredictConfig())
    with _opened(slide) as source:
        found = inference.answer(source, None, progress=progress).drawable
    if found is None:
        raise UsageError(f"{model} answers with something else than a label")
    return found


def segment_slide(
    slide: PathLike | Slide,
    model: PathLike | Checkpoint,
    output: PathLike = ".",
    config: SegmentConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> SegmentationRecord:
    """Segment a slide and write the label image, the polygons and the record to the folder `output`.

    Returns
    -------
    The record: `classes` with objects, area and share of each, and the paths `labels` and `polygons`.

    Raises
    ------
    UsageError : the model is not a segmentation model.
    OutputExistsError : the folder contains results of another slide, model or setting and `overwrite` is not set.
    """
    from wsi_attn.outputs.policy import claim
    from wsi_attn.tasks.segmentation.config import SegmentConfig
    from wsi_attn.tasks.segmentation.slide import SlideSegmentation

    with _opened(slide) as source:
        segmentation = SlideSegmentation(source, _loaded(model), Path(output), config or SegmentConfig())
        with claim(segmentation.output(), overwrite=overwrite) as found:
            return found.finished or segmentation.write(overwrite=overwrite, progress=progress)


def train(
    manifest: PathLike,
    output: PathLike,
    config: TrainConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
    **network: object,
) -> Checkpoint:
    """Train a model on the rows of a manifest and load it; an interrupted run with the same settings resumes.

    Parameters
    ----------
    manifest
        CSV with the columns `path`, `label` and optionally `split` and `patient`.
    output
        The folder of the run.
    config
        `wsi_attn.tasks.config.TrainConfig`: system, epochs, learning rate, resolution; without `folds`.
    **network
        Options of the network, such as `coarse_factor=4`.

    Raises
    ------
    ManifestError : the manifest is invalid.
    OutputExistsError : the folder contains another run and `overwrite` is not set.
    """
    from wsi_attn.tasks.config import RunOptions, TrainConfig
    from wsi_attn.train.run import train as run

    settings = config or TrainConfig()
    if settings.folds:
        raise UsageError("wsi_attn.train trains one model; run `wsi-attn train --folds` for a cross-validation")
    options = RunOptions(overwrite=overwrite)
    run(Path(manifest), Path(output), settings, network, options, progress=OneInput(progress))
    return load_model(output)


def evaluate(
    model: PathLike | Checkpoint,
    manifest: PathLike,
    *,
    split: str = "test",
    seed: int = 0,
    progress: BatchProgress = no_progress,
) -> Mapping[str, object]:
    """Compare the predictions of a model with the labels of a manifest.

    Parameters
    ----------
    model
        A model; the folder of a cross-validation averages its folds.
    split
        `train`, `val`, `test` or `all`.
    seed
        Seed of the bootstrap intervals.

    Returns
    -------
    The report of `wsi-attn evaluate --json`: each metric with `value`, `low` and `high`.

    Raises
    ------
    ManifestError : there are no such rows, or none of them can be predicted.
    """
    from wsi_attn.inference.evaluation import evaluate_rows
    from wsi_attn.tasks.base import EvaluationJob
    from wsi_attn.tasks.config import EvaluateConfig

    named = [_loaded(folder) for folder in find_models(str(model))] if isinstance(model, str | Path) else [model]
    evaluation, failures = evaluate_rows(named, EvaluationJob(Path(manifest), EvaluateConfig(split, seed)), progress)
    return evaluation.report(failures).record()


def draw_heatmap(
    source: PathLike | SlidePrediction | TileStore,
    of: str | None = None,
    *,
    slide: PathLike | None = None,
    size: int = PNG_SIDE,
    mode: Mode | None = None,
    opacity: float = Appearance.alpha,
    colours: str = Appearance.colour,
) -> Image:
    """Draw a quantity over the slide, with a legend.

    Parameters
    ----------
    source
        A prediction or its file, or a store.
    of
        `attention`, `evidence:LABEL`, `uncertainty`, `score:NAME` or `tissue`; the first available one by default.
    slide
        Current path of the slide of a prediction, if it has moved.
    size
        Longer side of the slide in the image, pixels.
    mode
        `rank` or `value`; by default ranks for attention and values for anything else.
    opacity
        Opacity of the highest value, 0 to 1.
    colours
        `viridis`, `magma`, `inferno`, `plasma` or `cividis`.

    Raises
    ------
    UnknownNameError : there is no such quantity.
    PredictionError : the slide is missing or is a different one.
    """
    from wsi_attn.geometry import Frame
    from wsi_attn.heatmaps.appearance import Appearance
    from wsi_attn.heatmaps.picture import draw_layer
    from wsi_attn.slides.view import read_view

    look = Appearance(mode, colours, opacity)
    subject = _subject(source, slide)
    layer = subject.layer(of)
    downsample = max(1.0, max(subject.size0) / size)
    frame = Frame.covering(Size(*subject.size0), downsample, downsample)
    with subject.pixels() as pixels:
        view = read_view(pixels, frame.downsample_x, frame.downsample_y)
    return draw_layer(layer, subject.caption, view.pixels, frame, look)


def export(
    source: PathLike | SlidePrediction | Slide,
    to: str,
    output: PathLike = ".",
    config: ExportConfig | None = None,
    *,
    slide: PathLike | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """Export a prediction, a store or a slide to a format of other tools.

    Parameters
    ----------
    source
        A prediction or its file, a store, or a slide.
    to
        A name in `wsi_attn.export.exporter.EXPORTERS`: `png`, `geojson`, `ome-tiff`, `ome-zarr`, `csv`, `parquet`,
        `dzi`, `html`, or that of an installed package.
    output
        A file with the suffix of the format, or a folder in which to create `STEM.SUFFIX`.
    config
        `wsi_attn.export.config.ExportConfig`: quantity, size, colours.
    slide
        Current path of the slide of a prediction, if it has moved.

    Returns
    -------
    The path of the export, newly written or already complete.

    Raises
    ------
    OutputExistsError : the output exists, is something else, and `overwrite` is not set.
    """
    from wsi_attn.export.config import ExportConfig
    from wsi_attn.export.run import export_subject, target_of

    subject, settings = _subject(source, slide), config or ExportConfig()
    target = target_of(subject, to, Path(output), settings)
    export_subject(subject, to, target, settings, overwrite=overwrite, progress=progress)
    return target


def _subject(source: PathLike | SlidePrediction | Slide, slide: PathLike | None) -> ExportSource:
    from wsi_attn.export.source import open_export_source, prediction_source

    place = None if slide is None else Path(slide)
    if isinstance(source, SlidePrediction):
        return prediction_source(source, slide=place)
    if isinstance(source, str | Path):
        return open_export_source(Path(source), place)
    return replace(open_export_source(source.info.path), mpp=source.info.mpp)


def _loaded(model: PathLike | Checkpoint) -> Checkpoint:
    return load_model(model) if isinstance(model, str | Path) else model


def _mpp(mpp: MicronsPerPixel | None) -> Mpp | None:
    if mpp is None:
        return None
    x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    if not (0 < x < 1e4 and 0 < y < 1e4):
        raise UsageError(f"mpp must be one or two positive numbers of microns, not {mpp}")
    return Mpp(x, y)


@contextmanager
def _opened(slide: PathLike | Slide) -> Iterator[Slide]:
    """Context manager of a slide that closes it only if it was opened here."""
    if isinstance(slide, str | Path):
        with open_slide(slide) as source:
            yield source
    else:
        yield slide
