"""OME-Zarr 0.5 metadata of a store and its tissue label, readable by any viewer of that format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wsi_attn.geometry import Frame, Mpp
from wsi_attn.json_types import Json, JsonObject

VERSION = "0.5"
CHANNELS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
TISSUE_VALUES = {1: ("tissue", (64, 160, 96, 96)), 2: ("could not be read", (200, 60, 60, 160))}


def image_attributes(name: str, levels: Sequence[Frame], mpp: Mpp | None) -> JsonObject:
    """The attribute `ome` of the store: a multiscale RGB image, scaled in micrometers if the pixel size is known."""
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels: list[Json] = [
        {"label": label, "color": colour, "window": window, "active": True} for label, colour in CHANNELS
    ]
    return {
        "version": VERSION,
        "multiscales": [multiscale(name, levels, mpp, with_channels=True)],
        "omero": {"channels": channels, "rdefs": {"model": "color"}},
    }


def labels_attributes(names: Sequence[str]) -> JsonObject:
    """The attribute `ome` of the group `labels`."""
    return {"version": VERSION, "labels": list(names)}


def label_attributes(
    name: str,
    frames: Sequence[Frame],
    mpp: Mpp | None,
    values: Mapping[int, tuple[str, tuple[int, int, int, int]]] = TISSUE_VALUES,
    image: str | None = "../../",
) -> JsonObject:
    """The attribute `ome` of a label image.

    Parameters
    ----------
    values
        Meaning and colour (red, green, blue, opacity) of each value except 0; those of the tissue label by default.
    image
        Path from the label to the labelled image; None if the label stands alone.
    """
    colours: list[Json] = [{"label-value": value, "rgba": list(rgba)} for value, (_, rgba) in values.items()]
    meanings: list[Json] = [{"label-value": value, "meaning": meaning} for value, (meaning, _) in values.items()]
    source = {} if image is None else {"source": {"image": image}}
    return {
        "version": VERSION,
        "multiscales": [multiscale(name, frames, mpp)],
        "image-label": {"colors": colours, "properties": meanings, **source},
    }


def multiscale(
    name: str,
    frames: Sequence[Frame],
    mpp: Mpp | None,
    *,
    with_channels: bool = False,
    centred: bool = False,
    kind: str = "local mean",
) -> JsonObject:
    """One image of several levels, in micrometers, or in level-0 pixels if the pixel size is unknown.

    Parameters
    ----------
    centred
        State where the centre of the first pixel lies: half a pixel minus half a level-0 pixel. A viewer that shows the
        slide with its own scale and no translation then aligns both exactly.
    kind
        How the levels were made.
    """
    unit = {"unit": "micrometer"} if mpp else {}
    axes: list[Json] = [{"name": axis, "type": "space", **unit} for axis in "yx"]
    pixel = mpp or Mpp(1.0, 1.0)
    datasets: list[Json] = []
    for index, frame in enumerate(frames):
        scale = [pixel.y * frame.downsample_y, pixel.x * frame.downsample_x]
        transforms: list[Json] = [{"type": "scale", "scale": [1.0, *scale] if with_channels else scale}]
        if centred:
            middle = [pixel.y * (frame.downsample_y - 1) / 2, pixel.x * (frame.downsample_x - 1) / 2]
            transforms.append({"type": "translation", "translation": middle})
        datasets.append({"path": str(index), "coordinateTransformations": transforms})
    if with_channels:
        axes.insert(0, {"name": "c", "type": "channel"})
    return {"name": name, "axes": axes, "datasets": datasets, "type": kind}
