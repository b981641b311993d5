"""Regions drawn by hand take the place of tissue detection, in any frame."""

import json

import numpy as np
import pytest

from tests.slides import ArraySlide, stained
from wsi_attn.data.bags import make_bag
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import TissueError


def write(path, x, y, width, height):
    ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
    path.write_text(json.dumps({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}))
    return path


@pytest.mark.parametrize("scale", [1.0, 1.25])
def test_the_mask_is_what_was_drawn(tmp_path, scale):
    regions = write(tmp_path / "r.geojson", 40, 60, 80, 40)
    patches = SlidePatches(ArraySlide(stained(400, 300)), None, 4, workers=1).rescaled(scale)
    bag = make_bag(patches, "otsu", regions=regions)
    rows, columns = np.nonzero(bag.tissue)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(np.multiply(found, 4 / scale), [40, 60, 120, 100], atol=4)


def test_regions_of_another_slide_are_refused(tmp_path):
    regions = write(tmp_path / "r.geojson", 4000, 6000, 80, 40)
    with pytest.raises(TissueError):
        make_bag(SlidePatches(ArraySlide(stained(400, 300)), None, 4), "none", regions=regions)
