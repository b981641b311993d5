"""The codecs for Zarr on their own: metadata round trip, encoding, and refusal of what they cannot do."""

import numpy as np
import pytest
import zarr
from zarr.codecs import TransposeCodec

from wsi_attn.store.zarr_codecs import Jpeg2000Codec, JpegCodec


@pytest.mark.parametrize(
    ("codec", "tolerance"),
    [
        (JpegCodec({"level": 95, "colorspace_data": "RGB", "colorspace_jpeg": "YCBCR", "subsampling": "444"}), 4),
        (Jpeg2000Codec({"reversible": True}), 0),
    ],
)
def test_zarr_writes_and_reads_through_them(tmp_path, codec, tolerance):
    smooth = np.indices((100, 130)).sum(axis=0).astype(np.uint8)
    pixels = np.stack([smooth, smooth // 2, 255 - smooth])
    array = zarr.create_array(
        tmp_path / "a",
        shape=pixels.shape,
        chunks=(3, 50, 65),
        dtype="uint8",
        filters=[TransposeCodec(order=(1, 2, 0))],
        serializer=codec,
        compressors=None,
    )
    array[...] = pixels
    again = zarr.open_array(tmp_path / "a", mode="r")
    assert np.abs(again[...].astype(int) - pixels).max() <= tolerance
    assert again.metadata.codecs[1].to_dict() == codec.to_dict()


def test_keys_that_change_pixels_are_refused():
    with pytest.raises(ValueError, match="imagecodecs-zarr"):
        JpegCodec.from_dict({"name": "imagecodecs_jpeg", "configuration": {"lossless": True}})
