"""Training settings, apart from the configuration of the network. Imports no arrays: the help needs none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from wsi_attn.devices import AUTO, DEVICE
from wsi_attn.errors import UsageError
from wsi_attn.models.configs import BAGS, CLASSIFICATION, CONFIGS, SEGMENTATION, common, is_solved, task_of
from wsi_attn.options import Option, OptionField, changed_options, check_fields
from wsi_attn.threads import thread_limit

MOST_WORKERS = 4
"""Threads that prepare batches unless more are asked for: each holds two batches."""

DATA = "Data"
data, step, machine = (partial(Option, panel=panel) for panel in (DATA, "Training", "Machine and logs"))
image, pixel = partial(data, task=CLASSIFICATION), partial(data, task=SEGMENTATION)
rare = partial(Option, panel="Rare classes", task=CLASSIFICATION)
"""Options of the sections of the help; those of one task apply only to its systems."""


def _names(text: str) -> tuple[str, ...]:
    """Split comma-separated class names; empty for auto."""
    return () if text == "auto" else tuple(filter(None, map(str.strip, text.split(","))))


SOLVED = frozenset(
    {
        "system",
        "batch_size",
        "class_weights",
        "validation",
        "folds",
        "mpp",
        "tissue",
        "prior",
        "stain",
        "seed",
        "device",
    }
)
"""Options of systems whose weights are computed at once, from all images as they are, and not trained in steps."""

OF_BAGS = frozenset(
    {
        "system",
        "epochs",
        "batch_size",
        "accumulate",
        "learning_rate",
        "schedule",
        "weight_decay",
        "averaging",
        "clip",
        "patience",
        "class_weights",
        "validation",
        "folds",
        "loss",
        "gamma",
        "beta",
        "resample",
        "seed",
        "device",
        "precision",
    }
)
"""Options of systems that read stored features, which have neither pixels nor backbones."""


def applies(field: OptionField, system: str) -> bool:
    """Return whether an option of a `TrainConfig` is one of a system; raises `UnknownNameError`."""
    if task_of(system) == BAGS:
        return field.name in OF_BAGS
    return field.option.task in ("", task_of(system)) and (field.name in SOLVED or not is_solved(system))


@dataclass(frozen=True)
class InferenceConfig:
    """Settings of an inference; each task with settings has its own frozen dataclass of them."""


@dataclass(frozen=True)
class TrainConfig:
    """Training settings. Equal settings, data and seed give equal weights on one machine.

    Raises
    ------
    UsageError : a value is out of range or unknown.
    """

    system: Annotated[
        str,
        Option(
            "System to train: deep-attention, dual-cross, global-spatial, joint-segmentation, cnn, probe or gated-mil.",
            name="--model",
            aliases=("-m",),
            suggestions=lambda: CONFIGS.names(),
        ),
    ] = "deep-attention"
    epochs: Annotated[int, step("Number of passes over the training set.", at_least=1)] = 40
    batch_size: Annotated[int, step("Images per step and device.", at_least=1)] = 8
    accumulate: Annotated[
        int, step("Number of batches whose gradients are accumulated before a weight update.", at_least=1)
    ] = 1
    learning_rate: Annotated[float, step("Peak learning rate.", above=0)] = 1e-3
    schedule: Annotated[Literal["one-cycle", "cosine", "constant"], step("Learning-rate schedule.")] = "one-cycle"
    weight_decay: Annotated[float, step("Decoupled weight decay of AdamW.", at_least=0)] = 1e-3
    averaging: Annotated[
        float,
        step("Decay of the exponential moving average of the weights; 0 disables averaging.", at_least=0, below=1),
    ] = 0.99
    clip: Annotated[float, step("Maximum gradient norm.", above=0)] = 1.0
    backbone_rate: Annotated[
        float | None,
        step(
            "Learning rate of the backbones as a share of --learning-rate.",
            above=0,
            default="0.1 for backbones with trained weights, otherwise 1",
        ),
    ] = None
    gate_rate: Annotated[
        float,
        step("Learning rate of the gates that open attention branches, as a multiple of --learning-rate.", above=0),
    ] = 10.0
    freeze: Annotated[int, step("Number of stages of pretrained backbones to freeze, from the input.", at_least=0)] = 0
    augmented_copies: Annotated[
        int,
        step(
            "Number of augmented copies of each image that the epochs cycle through with --freeze. The feature maps of "
            "the frozen stages are cached for each copy, in memory up to --cache-mb and then in the run folder; 0 "
            "disables the cache and draws a new augmentation in every epoch.",
            at_least=0,
        ),
    ] = 4
    unfreeze_epochs: Annotated[
        int,
        step(
            "Unfreeze one more stage after every N epochs, the deepest first; 0 keeps all of --freeze frozen.",
            at_least=0,
        ),
    ] = 0
    warm_up_epochs: Annotated[
        int | None,
        step(
            "Number of initial epochs that train the heads only: trained backbones keep their weights, and in "
            "deep-attention only the global head learns.",
            at_least=0,
            default="a tenth of the epochs of deep-attention, 0 for others",
        ),
    ] = None
    head_start: Annotated[
        Literal["logistic", "random"],
        Option(
            "Initial weights of the classification heads with pretrained backbones: logistic (fitted by logistic "
            "regression on the training images; the heads then learn at --backbone-rate) or random. Heads of "
            "dual-cross are always random.",
            panel="Training",
            task=CLASSIFICATION,
        ),
    ] = "logistic"
    patience: Annotated[
        int, step("Stop after this many epochs without a lower validation loss; 0 disables early stopping.", at_least=0)
    ] = 0
    class_weights: Annotated[
        Literal["none", "root", "balanced"],
        step("Class weights in the loss: balanced (inverse frequency), root (its square root) or none."),
    ] = "root"
    colour: Annotated[float, data("Strength of colour augmentation; 0 disables it.", at_least=0)] = 1.0
    scale: Annotated[
        float, data("Strength of scale augmentation (standard deviation of the log scale); 0 disables it.", at_least=0)
    ] = 0.0
    random_crop: Annotated[
        float,
        image(
            "Largest share of each side that random cropping removes during training; 0 disables it.",
            at_least=0,
            below=1,
        ),
    ] = 0.0
    no_flip: Annotated[
        bool, image("Disable random flips and rotations during training, for images with a fixed orientation.")
    ] = False
    tta: Annotated[
        bool,
        image(
            "Average predictions over the eight flips and quarter turns of an image, in validation and in every "
            "prediction of the model."
        ),
    ] = False
    warp: Annotated[
        float, pixel("Strength of rotation and elastic deformation of images and masks; 0 disables it.", at_least=0)
    ] = 1.0
    validation: Annotated[
        float,
        data(
            "Share of the training patients held out for validation if the manifest has no val rows.",
            at_least=0.01,
            at_most=0.9,
        ),
    ] = 0.2
    folds: Annotated[
        int, image("Number of cross-validation folds, split by patient; 0 trains one model.", at_least=0)
    ] = 0
    mpp: Annotated[
        float | None,
        data(
            "Resolution of the high-resolution pixels.",
            unit="µm/px",
            above=0,
            below=1e4,
            default="the native resolution",
        ),
    ] = None
    tissue: Annotated[
        str,
        data(
            "Tissue detection: otsu, robust, or none to use the whole image.",
            suggestions=lambda: ("otsu", "robust", "none"),
        ),
    ] = "none"
    prior: Annotated[
        Literal["tissue", "scores", "none"],
        data("Prior weight of each location: tissue (tissue share), scores (tile scores of a store) or none."),
    ] = "tissue"
    stain: Annotated[str, data("Stain of the images as free text, stored in the model card.")] = "unspecified"
    loss: Annotated[
        Literal["cross-entropy", "focal", "class-balanced"], rare("Classification loss of the predicted class.")
    ] = "cross-entropy"
    gamma: Annotated[float, rare("Focusing parameter of --loss focal; 0 is the cross-entropy.", at_least=0)] = 2.0
    beta: Annotated[
        float,
        rare(
            "Beta of --loss class-balanced: from 0 (equal weights) towards 1 (inverse frequency).", at_least=0, below=1
        ),
    ] = 0.999
    resample: Annotated[
        Literal["none", "balanced", "root"],
        rare("Class resampling per epoch: none, balanced (equal counts) or root (square root of the counts)."),
    ] = "none"
    care: Annotated[
        Literal["none", "boxes", "saliency", "segmentation"],
        rare("Guide attention to lesions of rare classes (CARE): boxes of the manifest or found boxes."),
    ] = "none"
    care_model: Annotated[
        str, rare("Segmentation model for --care segmentation: a run or checkpoint folder.", metavar="FOLDER")
    ] = ""
    rare_classes: Annotated[
        tuple[str, ...],
        rare(
            "Classes that --care applies to; auto: those with less than half of an even share of the images.",
            metavar="auto|A,B,...",
            parse=_names,
            default="auto",
        ),
    ] = ()
    care_weight: Annotated[
        float, rare("Weight of the CARE attention loss; the classification has the rest.", at_least=0, below=1)
    ] = 0.01
    care_tau: Annotated[
        float,
        rare("Target mean attention inside a lesion box; the attention loss is zero above it.", above=0, at_most=1),
    ] = 0.5
    care_distance: Annotated[float, rare("Penalty per attention cell of distance from the lesion.", at_least=0)] = 0.0
    care_reduction: Annotated[
        Literal["sum", "mean"], rare("Reduction of the attention loss over the images of a step that have a lesion.")
    ] = "sum"
    care_after: Annotated[
        int | None, rare("Number of initial epochs without the CARE loss.", at_least=0, default="half of the epochs")
    ] = None
    care_boxes: Annotated[
        Literal["given", "random", "shuffled"],
        rare("Control of --care: each lesion at a random place of its image, or the lesion of another image."),
    ] = "given"
    care_second_order: Annotated[bool, rare("Also propagate gradients through the Grad-CAM weights.")] = False
    seed: Annotated[int, machine("Random seed of splits, weights, augmentation and order.")] = 0
    device: Annotated[str, DEVICE] = AUTO
    precision: Annotated[
        Literal["auto", "32", "bf16-mixed", "16-mixed"],
        machine("Numeric precision; auto is bf16-mixed on CUDA and 32 elsewhere."),
    ] = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.folds == 1:
            raise UsageError(
                f"--folds {self.folds}: cross-validation needs at least 2 folds; remove the option to train one model"
            )
        for flag, epochs in (("--care-after", self.care_after), ("--warm-up-epochs", self.warm_up_epochs)):
            if epochs is not None and epochs >= self.epochs:
                raise UsageError(
                    f"{flag} {epochs}: the run has {self.epochs} epoch{'s' if self.epochs > 1 else ''}, so what "
                    f"follows them never starts; choose at most {self.epochs - 1}"
                )
        if self.care == "none":
            for flag, given in (
                ("--care-boxes", self.care_boxes != "given"),
                ("--care-after", self.care_after is not None),
                ("--care-model", bool(self.care_model)),
            ):
                if given:
                    raise UsageError(f"{flag} has no effect without --care; add --care boxes, or remove {flag}")

    def solves_heads(self, trained: Collection[object]) -> bool:
        """Return whether heads start as logistic regressions, which needs backbones with trained weights."""
        return bool(trained) and self.head_start == "logistic"

    def first_care_epoch(self) -> int:
        """Return the first epoch with the CARE loss: a random network has no class activation map to guide."""
        return self.epochs // 2 if self.care_after is None else self.care_after

    def refuse_options_of_other_systems(self) -> None:
        """Check that only options that apply to the system differ from their defaults; see `refuse`."""
        self.refuse(lambda field: not applies(field, self.system))

    def refuse(self, unused: Callable[[OptionField], bool]) -> None:
        """Check that options that are not used have their defaults.

        Raises
        ------
        UsageError : one does not; the message names it.
        """
        for field in changed_options(self):
            if unused(field):
                raise UsageError(f"--model {self.system} has no option {field.flag}; remove it")


@dataclass(frozen=True)
class Resources:
    """Machine resources of a run; none of them changes the weights."""

    workers: int | None = None
    """Threads that prepare batches ahead of the network, and as many that read patches; by default up to 4."""
    cache_mb: Annotated[
        int,
        machine(
            "Cache of decoded pixels: plain images, coarse views, blocks of slides and stores.", unit="MB", at_least=1
        ),
    ] = 3072
    tensorboard: Annotated[bool, machine("Also write the training log for TensorBoard.")] = False

    def __post_init__(self) -> None:
        check_fields(self)

    def threads(self) -> int:
        """Number of threads of each kind."""
        return self.workers or min(MOST_WORKERS, thread_limit())


@dataclass(frozen=True)
class RunOptions:
    """What a run is beside its manifest, its configuration and its network.

    Attributes
    ----------
    name
        Name of the model; the name of the run folder by default.
    weights
        Initial weights of the backbones, see `start.chosen_start`; by default those that are installed.
    classes
        Classes of annotations, see `masks.parse_classes`; by default those that the annotations have.
    command
        The command line, for the card.
    overwrite
        Replace an existing run.
    resources
        Threads, memory and extra logs.
    """

    name: str | None = None
    weights: str = common.AUTO
    classes: str | None = None
    command: str = ""
    overwrite: bool = False
    resources: Resources = dataclasses.field(default_factory=Resources)


@dataclass(frozen=True)
class EvaluateConfig:
    """Which rows are evaluated, and an optional operating point.

    Raises
    ------
    UsageError : a sensitivity without a positive label, or the reverse.
    """

    split: Annotated[str, Option("Rows to evaluate: train, val, test or all.")] = "test"
    seed: Annotated[int, Option("Random seed.")] = 0
    sensitivity: Annotated[
        float | None,
        Option("Target sensitivity of --positive; the threshold comes from the validation set.", above=0, at_most=1),
    ] = None
    positive: Annotated[str | None, Option("Positive label for --sensitivity.", metavar="LABEL")] = None

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.sensitivity is None) != (self.positive is None):
            raise UsageError("--sensitivity and --positive must be used together")
