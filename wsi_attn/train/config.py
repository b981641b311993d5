"""Everything that steers a training run, beside the network's own configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    """Training settings; the same settings, data and seed give the same weights on the same machine."""

    system: str = "deep-attention"
    """Attention system, by name."""
    epochs: int = 40
    """Passes over the training part."""
    batch_size: int = 8
    """Images of one step."""
    learning_rate: float = 1e-3
    """Peak of the one-cycle schedule."""
    weight_decay: float = 1e-3
    """Decoupled weight decay of AdamW."""
    averaging: float = 0.99
    """Decay of the moving average of the weights, which is what is validated and kept; 0 keeps the last step's."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    colour: float = 1.0
    """Strength of the colour augmentation; 0 is none."""
    scale: float = 0.0
    """Deviation of the log of a random change of scale while training; 0 is none."""
    validation: float = 0.2
    """Share of the training patients held out where the manifest has no `val` rows."""
    mpp: float | None = None
    """Microns per pixel of the high resolution; None trains at the images' own pixels."""
    tissue: str = "none"
    """Method of tissue detection; "none" lets the network look everywhere."""
    stain: str = "unspecified"
    """Stain of the images, in words, stored with the model."""
    seed: int = 0
    """Seed of splits, weights, augmentation and order."""
    device: str = "cpu"
    """Where the network runs."""
