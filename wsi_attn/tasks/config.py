"""Training settings, apart from the configuration of the network."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_attn.data.prior import PRIORS
from wsi_attn.errors import UsageError
from wsi_attn.registry import unknown_name
from wsi_attn.tasks.classification.care import REDUCTIONS
from wsi_attn.tasks.classification.class_losses import LOSSES
from wsi_attn.tasks.classification.lesions import SOURCES
from wsi_attn.tasks.classification.resampling import RESAMPLINGS
from wsi_attn.threads import thread_limit

SCHEDULES = ("one-cycle", "cosine", "constant")
CLASS_WEIGHTS = ("none", "root", "balanced")
PRECISIONS = ("auto", "32", "bf16-mixed", "16-mixed")

MOST_WORKERS = 4
"""Threads that prepare batches unless more are asked for: each holds two batches."""


@dataclass(frozen=True)
class TrainConfig:
    """Training settings. Equal settings, data and seed give equal weights on one machine.

    Raises
    ------
    UsageError : a value is out of range or unknown.
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
    random_crop: float = 0.0
    """Largest share of the width and of the height that random cropping removes during training; 0 disables it."""
    no_flip: bool = False
    """Disable random flips and rotations, for images with a fixed orientation such as radiographs."""
    warp: float = 1.0
    """Strength of the random rotation and bending of images and masks; 0 is none. Segmentation only."""
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
    loss: str = "cross-entropy"
    """Loss of the predicted class, one of `class_losses.LOSSES`; the heads beside it keep their cross-entropies."""
    gamma: float = 2.0
    """Of the loss "focal": how little a well predicted image counts; 0 is the cross-entropy."""
    beta: float = 0.999
    """Of the loss "class-balanced": from 0, where all classes weigh alike, towards 1, by the inverse frequency."""
    resample: str = "none"
    """How often an epoch shows a class, one of `resampling.RESAMPLINGS`."""
    care: str = "none"
    """Where the boxes come from that attention is pulled onto, one of `lesions.SOURCES`; see `train.care`."""
    care_model: str = ""
    """Segmentation model that finds the boxes of CARE, a folder or a name; for `care` "segmentation"."""
    rare_classes: tuple[str, ...] = ()
    """Classes whose attention is pulled; empty for those with less than half of an even share of the rows."""
    care_weight: float = 0.01
    """a of CARE, weight of the attention loss; the classification has the rest."""
    care_tau: float = 0.5
    """tau of CARE, mean of the map in the lesion that is enough."""
    care_distance: float = 0.0
    """delta of CARE: how much worse it is to look a cell further away from the lesion."""
    care_reduction: str = "sum"
    """Sum or mean of the attention loss over the images of a step that have a lesion."""
    care_after: int = 0
    """First epochs that train the classification alone."""
    care_second_order: bool = False
    """Whether the attention loss reaches the weights through the alphas of Grad-CAM too."""
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
            ("loss", LOSSES),
            ("resample", RESAMPLINGS),
            ("care", SOURCES),
            ("care_reduction", REDUCTIONS),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(name.replace("_", " "), getattr(self, name), known)
        for name, ok, range_ in (
            ("gamma", self.gamma >= 0, "at least 0"),
            ("beta", 0 <= self.beta < 1, "from 0 to below 1"),
            ("random_crop", 0 <= self.random_crop < 1, "from 0 to below 1"),
            ("care_weight", 0 <= self.care_weight < 1, "from 0 to below 1"),
            ("mpp", self.mpp is None or 0 < self.mpp < 1e4, "above 0 µm/px and below 10000"),
            ("care_tau", 0 < self.care_tau <= 1, "above 0, at most 1"),
        ):
            if not ok:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name):g}: must be {range_}")
        if self.folds == 1 or self.folds < 0:
            raise UsageError(
                f"--folds {self.folds}: cross-validation needs at least 2 folds; remove the option to train one model"
            )


@dataclass(frozen=True)
class Resources:
    """Machine resources of a run; none of them changes the weights."""

    workers: int | None = None
    """Threads that prepare batches ahead of the network, and as many that read patches; by default up to 4."""
    cache_mb: int = 3072
    """Decoded pixels that are kept: plain images, coarse views, blocks of slides and stores."""
    tensorboard: bool = False
    """Write the log for TensorBoard too."""

    def threads(self) -> int:
        """Number of threads of each kind."""
        return self.workers or min(MOST_WORKERS, thread_limit())
