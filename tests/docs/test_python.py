"""The examples of docs/python.md run as they stand, in order, and `import wsi_attn` is light and complete."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import wsi_attn
from tests.slides import stained

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text()


def data(folder: Path) -> None:
    """What the examples read."""
    shutil.copy(ROOT / "tests" / "data" / "cmu1_small_region.svs", folder / "slide.svs")
    manifest, masks = ["path,label,split"], ["path,mask,split"]
    for number in range(8):
        split = "train" if number < 4 else "val"
        pixels = stained(128, 128, number)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        Image.fromarray((pixels[..., 1] < 150).astype(np.uint8)).save(folder / f"{number}-mask.png")
        manifest.append(f"{number}.png,{'ab'[number % 2]},{split}")
        masks.append(f"{number}.png,{number}-mask.png,{split}")
    shutil.copy(folder / "0.png", folder / "image.png")
    (folder / "manifest.csv").write_text("\n".join(manifest) + "\n")
    (folder / "masks.csv").write_text("\n".join(masks) + "\n")


def test_examples_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(example, "docs/python.md", "exec"), names)
    assert names["prediction"].label in names["prediction"].probabilities
    assert max(names["picture"].size) >= 800
    assert {"heatmap.png", "tissue.png", "slide.geojson", "slide.html"} <= {path.name for path in tmp_path.iterdir()}
    for shown in (names["prediction"], names["store"]):
        page = shown._repr_html_()
        assert "base64" in page
        assert len(page) < 300_000
        assert "\n" not in repr(shown)


def test_every_function_is_offered_and_has_an_example() -> None:
    names = [name for name in wsi_attn.__all__ if name != "__version__"]
    assert dir(wsi_attn) == sorted(wsi_attn.__all__)
    for name in names:
        assert callable(getattr(wsi_attn, name))
        assert f"wsi_attn.{name}" in PAGE
    stub = (ROOT / "wsi_attn" / "__init__.pyi").read_text()
    assert sorted(re.findall(r"import (\w+) as", stub)) == sorted(names)
    with pytest.raises(AttributeError, match="encode"):
        _ = wsi_attn.encode  # type: ignore[attr-defined]


def test_import_loads_nothing_heavy_and_subpackages_stay_callable() -> None:
    code = (
        "import sys, wsi_attn\n"
        "assert not {'numpy', 'torch', 'zarr', 'PIL'} & set(sys.modules), sys.modules\n"
        "from wsi_attn.tasks.config import TrainConfig\n"
        "import wsi_attn.export.run\n"
        "assert callable(wsi_attn.train) and callable(wsi_attn.export) and callable(wsi_attn.evaluate)\n"
        "assert wsi_attn.tasks.config.TrainConfig is TrainConfig\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
