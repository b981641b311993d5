"""`ExporterContract`: what an export format promises."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from wsi_attn.errors import OutputExistsError
from wsi_attn.export.config import ExportConfig
from wsi_attn.export.exporter import EXPORTERS
from wsi_attn.export.run import export_subject, target_of
from wsi_attn.export.source import ExportSource, open_export_source
from wsi_attn.geometry import Mpp
from wsi_attn.slides.open import open_slide
from wsi_attn.testing import refuses
from wsi_attn.tiling.config import TileConfig
from wsi_attn.tiling.write import tile_slide


@functools.cache
def example_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder with a store of a small slide, `slide.zarr`; removed at the end of the program."""
    folder = tempfile.TemporaryDirectory()
    random = np.random.default_rng(0)
    pixels = np.full((384, 512, 3), 242, np.uint8)
    pixels[64:320, 96:448] = random.integers(90, 230, (256, 352, 3))
    image = Path(folder.name) / "slide.png"
    Image.fromarray(pixels).save(image)
    with open_slide(image, Mpp(0.5, 0.5)) as slide:
        tile_slide(slide, Path(folder.name) / "slide.zarr", TileConfig(tile_size=64, scores="focus"))
    return folder


class ExporterContract:
    """Tests of one format.

    Attributes
    ----------
    name
        What `--to` takes.
    """

    name: ClassVar[str]

    def subject(self) -> ExportSource:
        """What is exported: a store with a score for each tile."""
        return open_export_source(Path(example_folder().name) / "slide.zarr")

    def exported(
        self, path: Path, config: ExportConfig | None = None, *, overwrite: bool = False
    ) -> Mapping[str, object]:
        """Export the subject; returns the record of `export --json`."""
        return export_subject(self.subject(), self.name, path, config or ExportConfig(workers=1), overwrite=overwrite)

    def path(self, folder: Path) -> Path:
        """The file in a folder, under the name that `export` gives it."""
        return target_of(self.subject(), self.name, folder, ExportConfig())

    def test_it_states_suffixes_and_options(self) -> None:
        """Suffixes begin with a dot, and options are fields of `ExportConfig`."""
        exporter = EXPORTERS.get(self.name)
        assert exporter.suffixes
        assert all(suffix.startswith(".") for suffix in exporter.suffixes)
        assert set(exporter.options) <= {field.name for field in fields(ExportConfig)}
        assert (exporter.write is None) != (exporter.contents is None), "either writes or returns bytes"

    def test_files_are_named_after_the_input(self, tmp_path: Path) -> None:
        """A folder receives `STEM.SUFFIX`; a path with the suffix is taken as it is."""
        exporter = EXPORTERS.get(self.name)
        assert self.path(tmp_path).parent == tmp_path
        assert self.path(tmp_path).name.startswith("slide.")
        assert self.path(tmp_path).name.endswith(exporter.suffixes[0])
        for suffix in exporter.suffixes:
            given = tmp_path / f"mine{suffix}"
            assert target_of(self.subject(), self.name, given, ExportConfig()) == given

    def test_the_same_export_is_skipped(self, tmp_path: Path) -> None:
        """It is written once, and the same again after --overwrite."""
        path = self.path(tmp_path)
        assert self.exported(path)["state"] == "written"
        assert path.exists()
        before = contents(path)
        assert self.exported(path)["state"] == "skipped"
        assert self.exported(path, overwrite=True)["state"] == "written"
        assert contents(path) == before

    def test_other_files_are_kept(self, tmp_path: Path) -> None:
        """A file of something else is refused, and replaced with --overwrite."""
        path = self.path(tmp_path)
        if EXPORTERS.get(self.name).zarr:
            path.mkdir()
            (path / "zarr.json").write_text("{}")
        else:
            path.write_text("something else")
        before = contents(path)
        assert refuses(lambda: self.exported(path), OutputExistsError)
        assert contents(path) == before
        assert self.exported(path, overwrite=True)["state"] == "written"

    def test_an_interruption_leaves_nothing(self, tmp_path: Path) -> None:
        """Only the file and what belongs to it appear in the folder."""
        path = self.path(tmp_path)
        self.exported(path)
        belongs = {path, *EXPORTERS.get(self.name).beside(path)}
        assert {entry for entry in tmp_path.iterdir() if not entry.name.endswith(".lock")} == belongs

    def test_options_that_are_not_stated_change_nothing(self, tmp_path: Path) -> None:
        """Apart from the mark, which is a digest of all settings."""
        exporter = EXPORTERS.get(self.name)
        if exporter.contents is None:
            return
        others = {"mode": "value", "alpha": 0.9, "colour": "magma", "size": 100, "top": 1, "values": True}
        changed = {name: value for name, value in others.items() if name not in exporter.options}
        first, second = tmp_path / f"a{exporter.suffixes[0]}", tmp_path / f"b{exporter.suffixes[0]}"
        self.exported(first)
        self.exported(second, replace(ExportConfig(workers=1), **changed))  # type: ignore[arg-type]
        assert contents(first) == contents(second)


def contents(path: Path) -> dict[str, bytes]:
    """Bytes of a file, or of all files of a folder, by name."""
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in found}
