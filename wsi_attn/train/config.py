"""Everything that steers a training run, beside the network's own configuration."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_attn.data.prior import PRIORS
from wsi_attn.errors import UsageError
from wsi_attn.registry import unknown_name

SCHEDULES = ("one-cycle", "cosine", "constant")
CLASS_WEIGHTS = ("none", "root", "balanced")
PRECISIONS = ("auto", "32", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class TrainConfig:
    """Training settings; the same settings, data and seed give the same weights on the same machine.

    Raises
    ------
    UsageError : a setting that is none of those it can be.
    """

    system: str = "deep-attention"
    """Attention system, by name."""
    epochs: int = 40
    """Passes over the training part."""
    batch_size: int = 8
    """Images of one step, on each device."""
    accumulate: int = 1
    """Batches whose gradients are summed before the weights change."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    schedule: str = "one-cycle"
    """Course of the learning rate, one of `SCHEDULES`; see `loop.learning_rate`."""
    weight_decay: float = 1e-3
    """Decoupled weight decay of AdamW."""
    averaging: float = 0.99
    """Decay of the moving average of the weights, which is what is validated and kept; 0 keeps the last step's."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    warm_up_epochs: int = 0
    """First epochs in which only the loss of the global head counts, so that instances are not drawn from noise."""
    patience: int = 0
    """Epochs without a lower validation loss after which training ends; 0 goes on to the last epoch."""
    class_weights: str = "root"
    """Weight of a class in the loss: its inverse frequency ("balanced"), the root of that, or "none"."""
    colour: float = 1.0
    """Strength of the colour augmentation; 0 is none."""
    scale: float = 0.0
    """Deviation of the log of a random change of scale while training; 0 is none."""
    validation: float = 0.2
    """Share of the training patients held out where the manifest has no `val` rows."""
    folds: int = 0
    """Parts of a cross-validation by patient; 0 trains one model."""
    mpp: float | None = None
    """Microns per pixel of the high resolution; None trains at the images' own pixels."""
    tissue: str = "none"
    """Method of tissue detection; "none" lets the network look everywhere."""
    prior: str = "tissue"
    """What weighs the places before the network has seen them, see `data.prior`."""
    stain: str = "unspecified"
    """Stain of the images, in words, stored with the model."""
    seed: int = 0
    """Seed of splits, weights, augmentation and order."""
    device: str = "cpu"
    """Where the network runs."""
    precision: str = "auto"
    """Arithmetic of the network: "32", "bf16-mixed" or "16-mixed"; "auto" is bf16-mixed on CUDA, else 32."""

    def __post_init__(self) -> None:
        for name, known in (
            ("schedule", SCHEDULES),
            ("class_weights", CLASS_WEIGHTS),
            ("precision", PRECISIONS),
            ("prior", PRIORS),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(name.replace("_", " "), getattr(self, name), known)
        if self.folds == 1 or self.folds < 0:
            raise UsageError(
                f"--folds {self.folds}: cross-validation has at least two parts; leave it out to train once"
            )


@dataclass(frozen=True)
class Resources:
    """What a run may use of the machine; none of it changes the weights."""

    workers: int = 2
    """Threads that prepare batches ahead of the network, and as many that read patches."""
    cache_mb: int = 3072
    """Decoded pixels that are kept: plain images, coarse views, blocks of slides and stores."""
    tensorboard: bool = False
    """Write the log for TensorBoard too."""
