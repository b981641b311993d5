"""The options of `wsi-attn train`, in the order and under the headings of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DATA, NETWORK, STEPS, RARE, MACHINE = "Data", "Network", "Training", "Rare classes", "Machine and logs"
"""Panels of `--help`."""

Manifest = Annotated[
    Path, typer.Argument(help="CSV with path and label, and where they apply split, patient, mpp, regions.")
]
System = Annotated[str, typer.Option("--model", "-m", help="Attention system to train.")]
Run = Annotated[Path, typer.Option("--output", "-o", help="Run folder.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the model; the run folder's by default.")]

Validation = Annotated[
    float,
    typer.Option("--validation", min=0.01, max=0.9, help="Share of patients to validate on.", rich_help_panel=DATA),
]
Folds = Annotated[
    int, typer.Option("--folds", min=0, help="Parts of a cross-validation by patient; 0 is none.", rich_help_panel=DATA)
]
Mpp = Annotated[
    float | None,
    typer.Option(
        "--mpp", help="Resolution to read at, µm/px; the images' own pixels by default.", rich_help_panel=DATA
    ),
]
Tissue = Annotated[
    str, typer.Option("--tissue", help="Tissue detection: otsu, or none to look everywhere.", rich_help_panel=DATA)
]
Prior = Annotated[
    str,
    typer.Option(
        "--prior",
        help="What weighs places before they are seen: tissue, scores (of a store's tiles) or none.",
        rich_help_panel=DATA,
    ),
]
Stain = Annotated[
    str, typer.Option("--stain", help="Stain of the images, in words, stored with the model.", rich_help_panel=DATA)
]
Colour = Annotated[
    float,
    typer.Option("--colour", min=0, help="Strength of colour augmentation; 0 is none.", rich_help_panel=DATA),
]
Scale = Annotated[
    float, typer.Option("--scale", min=0, help="Strength of scale augmentation; 0 is none.", rich_help_panel=DATA)
]
Cut = Annotated[
    float,
    typer.Option(
        "--cut",
        min=0,
        max=0.9,
        help="Most of a side that a random window leaves away in training; 0 shows whole images.",
        rich_help_panel=DATA,
    ),
]
Upright = Annotated[
    bool,
    typer.Option("--upright", help="Neither turn nor flip images in training.", rich_help_panel=DATA),
]
Warp = Annotated[
    float | None,
    typer.Option(
        "--warp",
        min=0,
        help="Strength of rotating and bending images with masks, 1 by default; 0 is none.",
        rich_help_panel=DATA,
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="NAME[=VALUE],...",
        help="Classes of masks, the background first; VALUE is that in a mask image.",
        rich_help_panel=DATA,
    ),
]

CoarseFactor = Annotated[
    int | None,
    typer.Option("--coarse-factor", min=1, help="High-resolution pixels per coarse pixel.", rich_help_panel=NETWORK),
]
PatchSize = Annotated[
    int | None,
    typer.Option(
        "--patch-size", min=16, help="Side of a key instance, high-resolution pixels.", rich_help_panel=NETWORK
    ),
]
Instances = Annotated[
    int | None,
    typer.Option("--instances", min=1, help="Most key instances that are read.", rich_help_panel=NETWORK),
]
Selection = Annotated[
    str | None,
    typer.Option(
        "--selection", help="How key instances are chosen: top-k, threshold or sample.", rich_help_panel=NETWORK
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold", min=0, max=1, help="Of --selection threshold, on the map from 0 to 1.", rich_help_panel=NETWORK
    ),
]
Heads = Annotated[int | None, typer.Option("--heads", min=1, help="Attention maps.", rich_help_panel=NETWORK)]
NoGate = Annotated[bool, typer.Option("--no-gate", help="Attention without the sigmoid gate.", rich_help_panel=NETWORK)]
Branches = Annotated[
    str | None,
    typer.Option("--branches", help="What is fused into the label: both, global or local.", rich_help_panel=NETWORK),
]
UniformSampling = Annotated[
    bool,
    typer.Option("--uniform-sampling", help="Draw instances uniformly and not by attention.", rich_help_panel=NETWORK),
]
Exploration = Annotated[
    float | None,
    typer.Option(
        "--exploration", min=0, help="Noise that draws instances while training; 0 is none.", rich_help_panel=NETWORK
    ),
]
EntropyWeight = Annotated[
    float | None,
    typer.Option("--entropy-weight", help="Weight of the term that spreads attention.", rich_help_panel=NETWORK),
]
GuidanceWeight = Annotated[
    float | None,
    typer.Option(
        "--guidance-weight",
        min=0,
        help="By how much the coarse attention learns from what the patches say; 0 is not at all.",
        rich_help_panel=NETWORK,
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="NAME",
        help="Network of the coarse view: small, small-vgg, -googlenet, -resnet, -densenet, or timm:NAME.",
        rich_help_panel=NETWORK,
    ),
]
PatchBackbone = Annotated[
    str | None,
    typer.Option(
        "--patch-backbone", metavar="NAME", help="Network of the patches: small or timm:NAME.", rich_help_panel=NETWORK
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="none|pretrained|FILE",
        help="What timm backbones begin with; FILE is safetensors.",
        rich_help_panel=NETWORK,
    ),
]
CoarseWidths = Annotated[
    str | None,
    typer.Option("--coarse-widths", metavar="N,N,...", help="Channels of small, coarse view.", rich_help_panel=NETWORK),
]
PatchWidths = Annotated[
    str | None,
    typer.Option("--patch-widths", metavar="N,N,...", help="Channels of small, patches.", rich_help_panel=NETWORK),
]
Attention = Annotated[
    str | None,
    typer.Option(
        "--attention",
        help="Of joint-segmentation: none, pointwise, self, joint, gate-query, gate-key or log-bias.",
        rich_help_panel=NETWORK,
    ),
]
Crop = Annotated[
    int | None,
    typer.Option("--crop", min=32, help="Side of the squares that joint-segmentation sees.", rich_help_panel=NETWORK),
]
SecondBackbone = Annotated[
    str | None,
    typer.Option("--second-backbone", metavar="NAME", help="Second network of dual-cross.", rich_help_panel=NETWORK),
]
Fusion = Annotated[
    str | None,
    typer.Option("--fusion", help="Of dual-cross: cross, concat, first or second.", rich_help_panel=NETWORK),
]
ViewSize = Annotated[
    int | None,
    typer.Option("--view-size", min=8, help="Side that global-spatial brings images to.", rich_help_panel=NETWORK),
]
MapBy = Annotated[
    str | None,
    typer.Option(
        "--map-by",
        help="What the map of global-spatial is learned from: anchor, batch, free or none.",
        rich_help_panel=NETWORK,
    ),
]
MapAfter = Annotated[
    str | None,
    typer.Option(
        "--map-after", metavar="input|1|2|...", help="What the map weighs: input, or a stage.", rich_help_panel=NETWORK
    ),
]
Anchors = Annotated[
    int | None,
    typer.Option(
        "--anchors", min=1, help="Images behind the map, where there are over twice as many.", rich_help_panel=NETWORK
    ),
]
MapSide = Annotated[
    int | None,
    typer.Option(
        "--map-side", min=1, help="Side of what the map's classifier sees, odd; 1 is a pixel.", rich_help_panel=NETWORK
    ),
]
MapResidual = Annotated[
    bool, typer.Option("--map-residual", help="Weigh by 1 + map and not by the map.", rich_help_panel=NETWORK)
]
MapBias = Annotated[float | None, typer.Option("--map-bias", help="First logit of the map.", rich_help_panel=NETWORK)]
MapFreeze = Annotated[
    float | None,
    typer.Option(
        "--map-freeze",
        min=0,
        max=0.99,
        help="Share of the epochs, at the end, in which the map stays.",
        rich_help_panel=NETWORK,
    ),
]
Dropout = Annotated[
    float | None,
    typer.Option("--dropout", min=0, max=0.95, help="Dropout before each head.", rich_help_panel=NETWORK),
]

Epochs = Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training part.", rich_help_panel=STEPS)]
Patience = Annotated[
    int,
    typer.Option(
        "--patience",
        min=0,
        help="Epochs without a lower validation loss after which training ends; 0 never ends it.",
        rich_help_panel=STEPS,
    ),
]
WarmUp = Annotated[
    int,
    typer.Option(
        "--warm-up-epochs", min=0, help="First epochs that train the global head only.", rich_help_panel=STEPS
    ),
]
Batch = Annotated[
    int, typer.Option("--batch-size", min=1, help="Images of one step, on each device.", rich_help_panel=STEPS)
]
Accumulate = Annotated[
    int,
    typer.Option("--accumulate", min=1, help="Batches that one change of the weights sums.", rich_help_panel=STEPS),
]
Rate = Annotated[float, typer.Option("--learning-rate", help="Peak learning rate.", rich_help_panel=STEPS)]
Schedule = Annotated[
    str,
    typer.Option(
        "--schedule", help="Course of the learning rate: one-cycle, cosine or constant.", rich_help_panel=STEPS
    ),
]
Decay = Annotated[float, typer.Option("--weight-decay", min=0, help="Decoupled weight decay.", rich_help_panel=STEPS)]
Averaging = Annotated[
    float,
    typer.Option(
        "--averaging",
        min=0,
        max=0.99999,
        help="Decay of the moving average of the weights; 0 is none.",
        rich_help_panel=STEPS,
    ),
]
Clip = Annotated[float, typer.Option("--clip", min=1e-6, help="Largest norm of the gradient.", rich_help_panel=STEPS)]
Balance = Annotated[
    str,
    typer.Option(
        "--class-weights",
        help="Weight of a class: balanced (inverse frequency), root (of that) or none.",
        rich_help_panel=STEPS,
    ),
]

Loss = Annotated[
    str, typer.Option("--loss", help="Loss: cross-entropy, focal or class-balanced.", rich_help_panel=RARE)
]
Gamma = Annotated[float, typer.Option("--gamma", min=0, help="Of --loss focal.", rich_help_panel=RARE)]
Beta = Annotated[
    float, typer.Option("--beta", min=0, max=0.999999, help="Of --loss class-balanced.", rich_help_panel=RARE)
]
Resample = Annotated[
    str,
    typer.Option(
        "--resample", help="Images of a class in an epoch: none (as they are), balanced or root.", rich_help_panel=RARE
    ),
]
Care = Annotated[
    str,
    typer.Option(
        "--care",
        metavar="none|boxes|saliency|segmentation",
        help="Pull attention onto lesions of rare classes: boxes or masks of the manifest, or boxes that are found.",
        rich_help_panel=RARE,
    ),
]
CareModel = Annotated[
    str,
    typer.Option(
        "--care-model", metavar="FOLDER", help="Model of --care segmentation, from train.", rich_help_panel=RARE
    ),
]
RareClasses = Annotated[
    str,
    typer.Option(
        "--rare-classes",
        metavar="auto|A,B,...",
        help="Classes of --care; auto: less than half of an even share.",
        rich_help_panel=RARE,
    ),
]
CareWeight = Annotated[
    float,
    typer.Option("--care-weight", min=0, max=0.99, help="Weight of the attention loss.", rich_help_panel=RARE),
]
CareTau = Annotated[
    float,
    typer.Option(
        "--care-tau", min=0.01, max=1, help="Mean of the map in a lesion that is enough.", rich_help_panel=RARE
    ),
]
CareDistance = Annotated[
    float,
    typer.Option(
        "--care-distance", min=0, help="How much worse it is to look a cell further away.", rich_help_panel=RARE
    ),
]
CareReduction = Annotated[
    str,
    typer.Option("--care-reduction", help="sum or mean over the images of a step with a lesion.", rich_help_panel=RARE),
]
CareAfter = Annotated[
    int,
    typer.Option("--care-after", min=0, help="First epochs that train without --care.", rich_help_panel=RARE),
]
CareSecondOrder = Annotated[
    bool,
    typer.Option("--care-second-order", help="Gradient through the weights of Grad-CAM too.", rich_help_panel=RARE),
]

Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="32, bf16-mixed or 16-mixed; auto is bf16-mixed on CUDA, else 32.",
        rich_help_panel=MACHINE,
    ),
]
Workers = Annotated[
    int,
    typer.Option("--workers", min=1, help="Threads that prepare batches and read patches.", rich_help_panel=MACHINE),
]
CacheMb = Annotated[
    int,
    typer.Option("--cache-mb", min=1, help="Decoded pixels that are kept, in megabytes.", rich_help_panel=MACHINE),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write the log for TensorBoard too.", rich_help_panel=MACHINE)
]
