"""A cohort of small images, and checkpoints with drawn weights and known calibration."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsi_attn.models.calibration import fit_calibration
from wsi_attn.models.checkpoint import save_checkpoint
from wsi_attn.models.deep_attention import DeepAttention, DeepAttentionConfig
from wsi_attn.models.spec import ModelSpec

SPEC = ModelSpec(("green", "red"), None, "any", "none")


def calibrated_spec() -> ModelSpec:
    """Thresholds of 12 validation images: enough for a coverage of 0.9, too few for 0.95."""
    generator = np.random.default_rng(0)
    labels = np.arange(12) % 2
    p = (0.5 + 0.3 * (2 * labels - 1) * generator.random(12) - 0.1 * generator.random(12)).clip(0.01, 0.99)
    return replace(SPEC, calibration=fit_calibration(labels, np.stack([1 - p, p], axis=1)))


def save_drawn(run: Path, seed: int, spec: ModelSpec) -> Path:
    """A run whose checkpoint has drawn weights; its name is the run's."""
    torch.manual_seed(seed)
    config = DeepAttentionConfig(
        classes=2, coarse_factor=4, patch_size=32, instances=2, coarse_widths=(4, 4), patch_widths=(4, 4), hidden=4
    )
    network = DeepAttention(config).eval()
    save_checkpoint(
        run / "checkpoint", name=run.name, system="deep-attention", network=network, spec=spec, card="", provenance={}
    )
    return run


def write_cohort(folder: Path) -> Path:
    """Six images with a box, two a patient, and a row of two images without; the manifest's path."""
    rng = np.random.default_rng(0)
    rows = ["path,label,patient,split,boxes"]
    for number in range(6):
        pixels = rng.normal(150, 20, (96, 128, 3))
        pixels[..., number % 2] += 60
        pixels[20:40, 30:60] = 30
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'green' if number % 2 else 'red'},p{number // 2},test,30 20 60 40")
    rows.append("0.png;2.png,red,p0,test,")
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    return folder / "m.csv"


def answers_of(report: Path) -> list[dict[str, str]]:
    """The rows of a report's table."""
    return list(csv.DictReader((report / "predictions.csv").read_text().splitlines()))
