"""Every built-in member keeps the contract of its family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import DATA
from tests.dicom_files import write_series
from tests.unit.timm_here import NETWORK, timm_or_skip
from wsi_attn.export.exporter import EXPORTERS
from wsi_attn.geometry import Mpp
from wsi_attn.models.systems import SYSTEMS
from wsi_attn.nn.backbones import BACKBONES, TIMM
from wsi_attn.scores.scores import SCORES
from wsi_attn.slide import Slide
from wsi_attn.slides.reader import READERS
from wsi_attn.testing.encoders import BackboneContract
from wsi_attn.testing.exporters import ExporterContract
from wsi_attn.testing.models import ModelContract
from wsi_attn.testing.readers import ReaderContract
from wsi_attn.testing.scores import ScoreContract

PIXELS = np.random.default_rng(0).integers(0, 255, (600, 700, 3), dtype=np.uint8)
SMALL: dict[str, dict[str, Any]] = {
    "deep-attention": {"coarse_factor": 2, "coarse_widths": (8, 8), "patch_size": 32, "instances": 2, "hidden": 8},
    "cnn": {"coarse_factor": 2, "coarse_widths": (8, 8)},
    "global-spatial": {"view_size": 32, "coarse_widths": (8, 8), "anchors": 4},
    "dual-cross": {
        "coarse_factor": 2,
        "coarse_widths": (4, 4, 8, 8),
        "backbone": "small",
        "second_backbone": "small-vgg",
    },
    "joint-segmentation": {},
}


class TestTiff(ReaderContract):
    name = "tiff"

    def slide_file(self, folder: Path) -> Path:
        return DATA / "cmu1_small_region.svs"


class TestDicom(ReaderContract):
    name = "dicom"

    def slide_file(self, folder: Path) -> Path:
        return write_series(folder / "series", [PIXELS, PIXELS[::2, ::2]]) / "level-0.dcm"


class TestImage(ReaderContract):
    name = "image"

    def slide_file(self, folder: Path) -> Path:
        Image.fromarray(PIXELS).save(folder / "image.png")
        return folder / "image.png"


class TestOpenSlide(ReaderContract):
    """On a TIFF, which OpenSlide reads too: no free slide of its other formats is small."""

    name = "openslide"

    def slide_file(self, folder: Path) -> Path:
        return DATA / "cmu1_small_region.svs"

    def opened(self, file: Path, slide_mpp: Mpp | None = None) -> Slide:
        return READERS.get(self.name).open(file, slide_mpp, "")


def test_every_reader_is_tested() -> None:
    assert {each.name for each in (TestTiff, TestDicom, TestImage, TestOpenSlide)} == set(READERS.built_in)


@pytest.mark.parametrize("name", SCORES.built_in)
class TestScores(ScoreContract):
    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize("name", SYSTEMS.built_in)
class TestModels(ModelContract):
    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.name, self.options = name, SMALL[name]


@pytest.mark.parametrize("name", [f"{TIMM}:{NETWORK}" if name == TIMM else name for name in BACKBONES.built_in])
class TestBackbones(BackboneContract):
    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        if name.startswith(TIMM):
            timm_or_skip()
        self.name = name


@pytest.mark.parametrize("name", EXPORTERS.built_in)
class TestExporters(ExporterContract):
    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        if name == "parquet":
            pytest.importorskip("pyarrow", reason="pip install 'wsi-attn[tables]'")
        self.name = name
