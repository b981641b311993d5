"""The one view policy: at which resolution the tissue of a slide is looked for."""

import pytest

from tests.slides import ArraySlide, stained
from wsi_attn.errors import MissingMppError, TissueError, UnknownNameError, UsageError
from wsi_attn.geometry import Mpp
from wsi_attn.tissue import detect, find
from wsi_attn.tissue.find import find_tissue, tissue_frame, tissue_view
from wsi_attn.tissue.settings import METHODS, TissueSettings


@pytest.mark.parametrize(
    ("size", "mpp", "levels", "downsamples"),
    [
        ((4096, 3000), Mpp(0.5, 0.5), (1.0, 4.0, 16.0), (16.0, 16.0)),
        ((4096, 3000), Mpp(0.5, 0.25), (1.0, 4.0, 16.0), (16.0, 32.0)),
        ((4096, 3000), Mpp(0.55, 0.55), (1.0, 4.0), (16.0, 16.0)),  # a multiple of a level, not 14.5
        ((4096, 3000), None, (1.0,), (2.0, 2.0)),
        ((900, 700), None, (1.0,), (1.0, 1.0)),
        ((512, 400), Mpp(0.5, 0.5), (1.0,), (4.0, 4.0)),  # 128 pixels at least
        ((60, 40), Mpp(0.5, 0.5), (1.0,), (1.0, 1.0)),
        ((3000, 2000), Mpp(9.0, 9.0), (1.0,), (2.0, 2.0)),  # 2560 pixels at most
    ],
)
def test_view_of_a_slide(size, mpp, levels, downsamples):
    frame = tissue_frame(ArraySlide(stained(*size), mpp=mpp, levels=levels))
    assert (frame.downsample_x, frame.downsample_y) == downsamples


def test_stated_resolution_is_exact_and_limited(monkeypatch):
    slide = ArraySlide(stained(900, 700), mpp=Mpp(0.5, 0.25))
    frame = tissue_frame(slide, TissueSettings(mpp=1.5))
    assert (frame.downsample_x, frame.downsample_y) == (3.0, 6.0)
    assert tissue_frame(slide, TissueSettings(mpp=0.1)).size == slide.info.size0
    monkeypatch.setattr(find, "LARGEST_SIDE", 200)
    with pytest.raises(TissueError, match="--mpp"):
        tissue_frame(slide, TissueSettings(mpp=1.5))
    with pytest.raises(MissingMppError):
        tissue_frame(ArraySlide(stained(900, 700), mpp=None), TissueSettings(mpp=1.5))


def test_a_view_read_before_is_not_read_again(monkeypatch):
    slide = ArraySlide(stained(900, 700))
    view = tissue_view(slide)
    monkeypatch.setattr(find, "read_view", lambda *_, **__: pytest.fail("read again"))
    found = find_tissue(slide, view=view)
    assert found.frame == view.frame == tissue_frame(slide)
    assert found.mask.any()


def test_every_method_has_a_function():
    assert sorted(METHODS) == detect.METHODS.names()


def test_settings_are_checked():
    with pytest.raises(UnknownNameError):
        TissueSettings("otzu")
    for mpp in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="--mpp"):
            TissueSettings(mpp=mpp)
