"""Small DICOM whole-slide series out of real pixels, a file for each level; for tests."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, generate_uid

TILE = 256
SLIDE_STORAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def jpeg_of(tile: np.ndarray) -> bytes:
    """A JFIF stream."""
    file = io.BytesIO()
    Image.fromarray(tile).save(file, "JPEG", quality=92, subsampling=0)
    return file.getvalue()


def write_series(
    folder: Path,
    levels: Sequence[np.ndarray],
    names: Sequence[str] = (),
    mpp: float = 0.5,
    photometric: str = "YBR_FULL_422",
    encode: Callable[[np.ndarray], bytes] = jpeg_of,
    syntax: str = JPEGBaseline8Bit,
    has_table: bool = True,
) -> Path:
    """Write uint8 (height, width, 3) levels, finest first, each half as large, as one series of a new study.

    `names` are the files' names, `level-N.dcm` by default; `encode` makes frames of tiles, and `has_table` says whether
    a table of their offsets is written.
    """
    folder.mkdir(exist_ok=True)
    study, series, frame = (generate_uid() for _ in range(3))
    for index, level in enumerate(levels):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SLIDE_STORAGE, generate_uid()
        meta.TransferSyntaxUID = syntax
        file = Dataset()
        file.file_meta = meta
        file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        file.StudyInstanceUID, file.SeriesInstanceUID, file.FrameOfReferenceUID = study, series, frame
        file.Modality, file.InstanceNumber = "SM", index + 1
        file.ImageType = (
            ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"] if not index else ["DERIVED", "PRIMARY", "VOLUME", "R"]
        )
        file.SamplesPerPixel, file.PhotometricInterpretation, file.PlanarConfiguration = 3, photometric, 0
        file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
        file.Rows = file.Columns = TILE
        frames = list(_frames(level, encode))
        file.NumberOfFrames = len(frames)
        file.TotalPixelMatrixRows, file.TotalPixelMatrixColumns = level.shape[:2]
        file.DimensionOrganizationType = "TILED_FULL"
        file.TotalPixelMatrixFocalPlanes = file.NumberOfOpticalPaths = 1
        file.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
        spacing, measures, path = Dataset(), Dataset(), Dataset()
        spacing.PixelSpacing = [mpp * 1e-3 * 2**index] * 2
        measures.PixelMeasuresSequence = [spacing]
        path.OpticalPathIdentifier = "0"
        file.SharedFunctionalGroupsSequence, file.OpticalPathSequence = [measures], [path]
        file.PixelData = encapsulate(frames, has_bot=has_table)
        file["PixelData"].is_undefined_length = True
        name = names[index] if names else f"level-{index}.dcm"
        file.save_as(folder / name, enforce_file_format=True)
    return folder


def _frames(level: np.ndarray, encode: Callable[[np.ndarray], bytes]) -> Iterator[bytes]:
    for y in range(0, level.shape[0], TILE):
        for x in range(0, level.shape[1], TILE):
            tile = np.full((TILE, TILE, 3), 255, np.uint8)
            part = level[y : y + TILE, x : x + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            data = encode(tile)
            yield data + b"\0" * (len(data) % 2)
