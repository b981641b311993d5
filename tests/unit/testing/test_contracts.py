"""Every built-in member keeps the contract of its family."""

from __future__ import annotations

from collections.abc import Callable
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
from wsi_attn.models.configs import BAGS, task_of
from wsi_attn.models.systems import SYSTEMS
from wsi_attn.nn.backbones import BACKBONES, TIMM
from wsi_attn.scores.scores import SCORES
from wsi_attn.slide import Slide
from wsi_attn.slides.reader import READERS
from wsi_attn.tasks.base import TASKS
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.config import InferenceConfig
from wsi_attn.tasks.segmentation.config import SegmentConfig
from wsi_attn.testing.encoders import BackboneContract
from wsi_attn.testing.exporters import ExporterContract
from wsi_attn.testing.models import ModelContract
from wsi_attn.testing.readers import ReaderContract
from wsi_attn.testing.scores import ScoreContract
from wsi_attn.testing.tasks import MANIFEST, TaskContract

PIXELS = np.random.default_rng(0).integers(0, 255, (600, 700, 3), dtype=np.uint8)
SMALL: dict[str, dict[str, Any]] = {
    "deep-attention": {"coarse_factor": 2, "coarse_widths": (8, 8), "patch_size": 32, "instances": 2, "hidden": 8},
    "cnn": {"coarse_factor": 2, "coarse_widths": (8, 8)},
    "probe": {"view_size": 64, "backbone": "small"},
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


@pytest.mark.parametrize("name", [name for name in SYSTEMS.built_in if task_of(name) != BAGS])
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


class TestClassification(TaskContract):
    name = "classification"
    system, options = "cnn", SMALL["cnn"]

    def manifest(self, folder: Path) -> None:
        write_rows(folder, "label", lambda number, bright: "b" if number % 2 else "a")

    def settings(self) -> InferenceConfig:
        return PredictConfig(allow_out_of_distribution=True)


class TestSegmentation(TaskContract):
    name = "segmentation"
    system, options = "joint-segmentation", {"crop": 64}

    def manifest(self, folder: Path) -> None:
        def mask(number: int, bright: np.ndarray) -> str:
            Image.fromarray(bright.astype(np.uint8)).save(folder / f"{number}-mask.png")
            return f"{number}-mask.png"

        write_rows(folder, "mask", mask)

    def settings(self) -> InferenceConfig:
        return SegmentConfig()


class TestBagClassification(TaskContract):
    name = "bag-classification"
    system, options = "gated-mil", {"embedding": 8, "hidden": 4}

    def manifest(self, folder: Path) -> None:
        random = np.random.default_rng(0)
        lines = ["path,patient,split,label"]
        for number, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
            np.save(folder / f"{number}.npy", random.normal(number % 2, 1, (5 + number, 6)).astype(np.float32))
            lines.append(f"{number}.npy,p{number},{split},{'b' if number % 2 else 'a'}")
        (folder / MANIFEST).write_text("\n".join(lines) + "\n")

    def settings(self) -> InferenceConfig:
        return PredictConfig()


def write_rows(folder: Path, column: str, cell: Callable[[int, np.ndarray], str]) -> None:
    """Images, half of them bright on the left; `cell` tells their annotation."""
    random = np.random.default_rng(0)
    lines = [f"path,patient,split,{column}"]
    for number, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        bright = np.zeros((64, 64), bool)
        bright[:, : 16 + 32 * (number % 2)] = True
        pixels = np.where(bright[..., None], 220, 120) + random.integers(-20, 20, (64, 64, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,p{number},{split},{cell(number, bright)}")
    (folder / MANIFEST).write_text("\n".join(lines) + "\n")


def test_every_task_is_tested() -> None:
    assert {each.name for each in (TestClassification, TestSegmentation, TestBagClassification)} == set(TASKS.built_in)
