"""Training with frozen stages: they keep their weights, and see each augmented copy of an image once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from wsi_attn.errors import UsageError
from wsi_attn.nn.efficientnet_lite import EfficientNetLite, InvertedBottleneck
from wsi_attn.tasks.config import Resources, RunOptions, TrainConfig
from wsi_attn.train.run import train

SYSTEMS = {
    "cnn": {"backbone": "efficientnet-lite0"},
    "dual-cross": {
        "backbone": "efficientnet-lite0",
        "second_backbone": "small",
        "coarse_widths": (4, 4, 8, 8),
        "widths": (8, 8),
        "heads": 1,
        "fused_width": 8,
        "hidden": 8,
    },
    "global-spatial": {"backbone": "efficientnet-lite0", "view_size": 64, "map_after": 3, "anchors": 2},
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = ["path,label,split"]
    for number in range(8):
        pixels = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
        pixels[..., number % 2] //= 2
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]},{'train' if number < 6 else 'val'}")
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    return folder / "m.csv"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    save_file(EfficientNetLite(0, head=True).state_dict(), path)
    return path


@pytest.mark.parametrize("system", SYSTEMS)
def test_frozen_stages_run_once_for_each_copy(
    system: str, manifest: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = InvertedBottleneck.forward

    def counted(self: InvertedBottleneck, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.expand, torch.nn.Identity):  # the first block
            seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(InvertedBottleneck, "forward", counted)
    config = TrainConfig(
        system=system, epochs=5, batch_size=3, freeze=2, augmented_copies=2, seed=1, colour=0.3, head_start="random"
    )
    spec = f"{weights},none" if system == "dual-cross" else str(weights)
    options = RunOptions(weights=spec, resources=Resources(cache_mb=1))
    summary = train(manifest, tmp_path / "run", config, {"coarse_factor": 1, **SYSTEMS[system]}, options)
    anchors = 2 if system == "global-spatial" else 0  # described before training
    assert sum(seen) == anchors + 6 * 2 + 2 + 2  # copies to train on, the validation images, and again at the end
    assert not (tmp_path / "run" / "features").exists()
    before, after = load_file(weights), load_file(summary.checkpoint / "model.safetensors")
    prefix = "networks.0." if system == "dual-cross" else "phi."
    same = {name: torch.equal(value, after[prefix + name]) for name, value in before.items() if prefix + name in after}
    assert all(equal for name, equal in same.items() if name.startswith(("stem", "blocks.0", "blocks.1")))
    assert not all(same.values())


def test_a_thawed_stage_learns(manifest: Path, weights: Path, tmp_path: Path) -> None:
    config = TrainConfig(system="cnn", epochs=3, batch_size=3, freeze=1, unfreeze_epochs=2, averaging=0)
    options = RunOptions(weights=str(weights))
    network = {"coarse_factor": 1, "backbone": "efficientnet-lite0"}
    summary = train(manifest, tmp_path / "run", config, network, options)
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len(log) == 4
    after = load_file(summary.checkpoint / "model.safetensors")
    assert "phi.stem.0.weight" in after


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"freeze": 1}, "--freeze keeps trained weights"),
        ({"unfreeze_epochs": 1}, "--unfreeze-epochs needs frozen stages"),
        ({"warm_up_epochs": 1}, "no separate global head"),
    ],
)
def test_random_weights_have_nothing_to_keep(config: dict[str, int], said: str, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        train(manifest, tmp_path / "run", TrainConfig(system="cnn", **config), None, RunOptions(weights="none"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"epochs": 5, "warm_up_epochs": 5}, "never starts"),
        ({"epochs": 5, "care": "boxes", "care_after": 5}, "never starts"),
        ({"care_boxes": "random"}, "--care-boxes has no effect"),
        ({"care_after": 3}, "--care-after has no effect"),
    ],
)
def test_options_without_effect_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TrainConfig(system="cnn", **config)
