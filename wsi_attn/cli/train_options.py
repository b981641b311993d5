"""Options of `wsi-attn train`, in the order and under the headings of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_attn.cli.typed_options import check_folder_option

DATA, NETWORK, STEPS, RARE, MACHINE = "Data", "Network", "Training", "Rare classes", "Machine and logs"
"""Panels of `--help`."""

Manifest = Annotated[
    Path,
    typer.Argument(
        help="CSV manifest with the columns path and label, and optionally split, patient, mpp, regions, boxes or mask."
    ),
]
System = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="System to train: deep-attention, dual-cross, global-spatial, joint-segmentation or cnn."
    ),
]
Run = Annotated[
    Path,
    typer.Option("--output", "-o", callback=check_folder_option, help="Run folder: logs, metrics and the checkpoint."),
]
Name = Annotated[
    str | None, typer.Option("--name", help="Name stored with the model; the name of the run folder by default.")
]

Validation = Annotated[
    float,
    typer.Option(
        "--validation",
        min=0.01,
        max=0.9,
        help="Share of the training patients held out for validation if the manifest has no val rows.",
        rich_help_panel=DATA,
    ),
]
Folds = Annotated[
    int,
    typer.Option(
        "--folds",
        min=0,
        help="Number of cross-validation folds, split by patient; 0 trains one model.",
        rich_help_panel=DATA,
    ),
]
Mpp = Annotated[
    float | None,
    typer.Option(
        "--mpp",
        help="Resolution of the high-resolution pixels in µm/px; the native resolution by default.",
        rich_help_panel=DATA,
    ),
]
Tissue = Annotated[
    str,
    typer.Option(
        "--tissue", help="Tissue detection: otsu, robust, or none to use the whole image.", rich_help_panel=DATA
    ),
]
Prior = Annotated[
    str,
    typer.Option(
        "--prior",
        help="Prior weight of each location: tissue (tissue share), scores (tile scores of a store) or none.",
        rich_help_panel=DATA,
    ),
]
Stain = Annotated[
    str,
    typer.Option("--stain", help="Stain of the images as free text, stored in the model card.", rich_help_panel=DATA),
]
Colour = Annotated[
    float,
    typer.Option("--colour", min=0, help="Strength of colour augmentation; 0 disables it.", rich_help_panel=DATA),
]
Scale = Annotated[
    float,
    typer.Option(
        "--scale",
        min=0,
        help="Strength of scale augmentation (standard deviation of the log scale); 0 disables it.",
        rich_help_panel=DATA,
    ),
]
RandomCrop = Annotated[
    float,
    typer.Option(
        "--random-crop",
        min=0,
        max=0.9,
        help="Largest share of each side that random cropping removes during training; 0 disables it.",
        rich_help_panel=DATA,
    ),
]
NoFlip = Annotated[
    bool,
    typer.Option("--no-flip", help="Disable random flips and rotations during training.", rich_help_panel=DATA),
]
Warp = Annotated[
    float | None,
    typer.Option(
        "--warp",
        min=0,
        help="Strength of rotation and elastic deformation of images and masks; 0 disables it, the default is 1.",
        rich_help_panel=DATA,
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="NAME[=VALUE],...",
        help="Mask classes, background first; VALUE is the pixel value in mask images.",
        rich_help_panel=DATA,
    ),
]

CoarseFactor = Annotated[
    int | None,
    typer.Option(
        "--coarse-factor",
        min=1,
        help="Downsampling of the coarse view relative to the high resolution.",
        rich_help_panel=NETWORK,
    ),
]
PatchSize = Annotated[
    int | None,
    typer.Option(
        "--patch-size", min=16, help="Side of a key instance in high-resolution pixels.", rich_help_panel=NETWORK
    ),
]
Instances = Annotated[
    int | None,
    typer.Option("--instances", min=1, help="Maximum number of key instances per image.", rich_help_panel=NETWORK),
]
Selection = Annotated[
    str | None,
    typer.Option(
        "--selection", help="Selection of key instances: top-k, threshold or sample.", rich_help_panel=NETWORK
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        min=0,
        max=1,
        help="Cut-off of --selection threshold on the attention map scaled to 0..1.",
        rich_help_panel=NETWORK,
    ),
]
Heads = Annotated[
    int | None, typer.Option("--heads", min=1, help="Number of attention heads.", rich_help_panel=NETWORK)
]
NoGate = Annotated[
    bool, typer.Option("--no-gate", help="Use plain attention instead of gated attention.", rich_help_panel=NETWORK)
]
Branches = Annotated[
    str | None,
    typer.Option(
        "--branches", help="Branches that contribute to the label: both, global or local.", rich_help_panel=NETWORK
    ),
]
UniformSampling = Annotated[
    bool,
    typer.Option(
        "--uniform-sampling", help="Sample instances uniformly instead of by attention.", rich_help_panel=NETWORK
    ),
]
Exploration = Annotated[
    float | None,
    typer.Option(
        "--exploration",
        min=0,
        help="Scale of the Gumbel noise in instance selection during training; 0 disables it.",
        rich_help_panel=NETWORK,
    ),
]
EntropyWeight = Annotated[
    float | None,
    typer.Option(
        "--entropy-weight",
        help="Weight of the attention entropy term, which spreads attention.",
        rich_help_panel=NETWORK,
    ),
]
GuidanceWeight = Annotated[
    float | None,
    typer.Option(
        "--guidance-weight",
        min=0,
        help="Weight of the loss that aligns the coarse attention with the patch evidence; 0 disables it.",
        rich_help_panel=NETWORK,
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="NAME",
        help="Backbone of the coarse view: small, small-vgg, -googlenet, -resnet or -densenet, or timm:NAME.",
        rich_help_panel=NETWORK,
    ),
]
PatchBackbone = Annotated[
    str | None,
    typer.Option(
        "--patch-backbone", metavar="NAME", help="Backbone of the patches: small or timm:NAME.", rich_help_panel=NETWORK
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="none|pretrained|FILE",
        help="Initial weights of timm backbones: none, pretrained, or a safetensors file.",
        rich_help_panel=NETWORK,
    ),
]
CoarseWidths = Annotated[
    str | None,
    typer.Option(
        "--coarse-widths",
        metavar="N,N,...",
        help="Channels per stage of the small backbone of the coarse view.",
        rich_help_panel=NETWORK,
    ),
]
PatchWidths = Annotated[
    str | None,
    typer.Option(
        "--patch-widths",
        metavar="N,N,...",
        help="Channels per stage of the small backbone of the patches.",
        rich_help_panel=NETWORK,
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(
        "--attention",
        help="joint-segmentation: attention; none, pointwise, self, joint, gate-query, gate-key or log-bias.",
        rich_help_panel=NETWORK,
    ),
]
Crop = Annotated[
    int | None,
    typer.Option(
        "--crop", min=32, help="joint-segmentation: side of the training crops in pixels.", rich_help_panel=NETWORK
    ),
]
SecondBackbone = Annotated[
    str | None,
    typer.Option("--second-backbone", metavar="NAME", help="dual-cross: second backbone.", rich_help_panel=NETWORK),
]
Fusion = Annotated[
    str | None,
    typer.Option(
        "--fusion", help="dual-cross: feature fusion, one of cross, concat, first, second.", rich_help_panel=NETWORK
    ),
]
ViewSize = Annotated[
    int | None,
    typer.Option(
        "--view-size", min=8, help="global-spatial: side in pixels that images are resized to.", rich_help_panel=NETWORK
    ),
]
MapBy = Annotated[
    str | None,
    typer.Option(
        "--map-by",
        help="global-spatial: what the spatial map is learned from: anchor, batch, free or none.",
        rich_help_panel=NETWORK,
    ),
]
MapAfter = Annotated[
    str | None,
    typer.Option(
        "--map-after",
        metavar="input|1|2|...",
        help="global-spatial: where the map is applied: input, or the number of a backbone stage.",
        rich_help_panel=NETWORK,
    ),
]
Anchors = Annotated[
    int | None,
    typer.Option(
        "--anchors",
        min=1,
        help="global-spatial: number of anchor images; used if the training set is over twice as large.",
        rich_help_panel=NETWORK,
    ),
]
MapSide = Annotated[
    int | None,
    typer.Option(
        "--map-side",
        min=1,
        help="global-spatial: side of the neighbourhood that the pixel classifier sees, odd; 1 is a single pixel.",
        rich_help_panel=NETWORK,
    ),
]
MapResidual = Annotated[
    bool,
    typer.Option(
        "--map-residual", help="global-spatial: multiply by 1 + map instead of by the map.", rich_help_panel=NETWORK
    ),
]
MapBias = Annotated[
    float | None, typer.Option("--map-bias", help="global-spatial: initial logit of the map.", rich_help_panel=NETWORK)
]
MapFreeze = Annotated[
    float | None,
    typer.Option(
        "--map-freeze",
        min=0,
        max=0.99,
        help="global-spatial: final share of the epochs in which the map is frozen.",
        rich_help_panel=NETWORK,
    ),
]
Dropout = Annotated[
    float | None,
    typer.Option("--dropout", min=0, max=0.95, help="Dropout rate before each head.", rich_help_panel=NETWORK),
]

Epochs = Annotated[
    int, typer.Option("--epochs", min=1, help="Number of passes over the training set.", rich_help_panel=STEPS)
]
Patience = Annotated[
    int,
    typer.Option(
        "--patience",
        min=0,
        help="Stop after this many epochs without a lower validation loss; 0 disables early stopping.",
        rich_help_panel=STEPS,
    ),
]
WarmUp = Annotated[
    int,
    typer.Option(
        "--warm-up-epochs",
        min=0,
        help="Number of initial epochs that train the global head only.",
        rich_help_panel=STEPS,
    ),
]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Images per step and device.", rich_help_panel=STEPS)]
Accumulate = Annotated[
    int,
    typer.Option(
        "--accumulate",
        min=1,
        help="Number of batches whose gradients are accumulated before a weight update.",
        rich_help_panel=STEPS,
    ),
]
Rate = Annotated[float, typer.Option("--learning-rate", help="Peak learning rate.", rich_help_panel=STEPS)]
Schedule = Annotated[
    str,
    typer.Option("--schedule", help="Learning-rate schedule: one-cycle, cosine or constant.", rich_help_panel=STEPS),
]
Decay = Annotated[
    float, typer.Option("--weight-decay", min=0, help="Decoupled weight decay of AdamW.", rich_help_panel=STEPS)
]
Averaging = Annotated[
    float,
    typer.Option(
        "--averaging",
        min=0,
        max=0.99999,
        help="Decay of the exponential moving average of the weights; 0 disables averaging.",
        rich_help_panel=STEPS,
    ),
]
Clip = Annotated[float, typer.Option("--clip", min=1e-6, help="Maximum gradient norm.", rich_help_panel=STEPS)]
Balance = Annotated[
    str,
    typer.Option(
        "--class-weights",
        help="Class weights in the loss: balanced (inverse frequency), root (its square root) or none.",
        rich_help_panel=STEPS,
    ),
]

Loss = Annotated[
    str,
    typer.Option("--loss", help="Classification loss: cross-entropy, focal or class-balanced.", rich_help_panel=RARE),
]
Gamma = Annotated[
    float, typer.Option("--gamma", min=0, help="Focusing parameter of --loss focal.", rich_help_panel=RARE)
]
Beta = Annotated[
    float, typer.Option("--beta", min=0, max=0.999999, help="Beta of --loss class-balanced.", rich_help_panel=RARE)
]
Resample = Annotated[
    str,
    typer.Option(
        "--resample",
        help="Class resampling per epoch: none, balanced (equal counts) or root (square root of the counts).",
        rich_help_panel=RARE,
    ),
]
Care = Annotated[
    str,
    typer.Option(
        "--care",
        metavar="none|boxes|saliency|segmentation",
        help="Guide attention to lesions of rare classes (CARE): boxes of the manifest or found boxes.",
        rich_help_panel=RARE,
    ),
]
CareModel = Annotated[
    str,
    typer.Option(
        "--care-model",
        metavar="FOLDER",
        help="Segmentation model for --care segmentation: a run or checkpoint folder.",
        rich_help_panel=RARE,
    ),
]
RareClasses = Annotated[
    str,
    typer.Option(
        "--rare-classes",
        metavar="auto|A,B,...",
        help="Classes that --care applies to; auto selects classes with less than half of an even share of the images.",
        rich_help_panel=RARE,
    ),
]
CareWeight = Annotated[
    float,
    typer.Option("--care-weight", min=0, max=0.99, help="Weight of the CARE attention loss.", rich_help_panel=RARE),
]
CareTau = Annotated[
    float,
    typer.Option(
        "--care-tau",
        min=0.01,
        max=1,
        help="Target mean attention inside a lesion box; the attention loss is zero above it.",
        rich_help_panel=RARE,
    ),
]
CareDistance = Annotated[
    float,
    typer.Option(
        "--care-distance", min=0, help="Penalty per attention cell of distance from the lesion.", rich_help_panel=RARE
    ),
]
CareReduction = Annotated[
    str,
    typer.Option(
        "--care-reduction",
        help="Reduction of the attention loss over the images of a step that have a lesion: sum or mean.",
        rich_help_panel=RARE,
    ),
]
CareAfter = Annotated[
    int,
    typer.Option("--care-after", min=0, help="Number of initial epochs without the CARE loss.", rich_help_panel=RARE),
]
CareSecondOrder = Annotated[
    bool,
    typer.Option(
        "--care-second-order", help="Also propagate gradients through the Grad-CAM weights.", rich_help_panel=RARE
    ),
]

Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="Numeric precision: 32, bf16-mixed, 16-mixed, or auto (bf16-mixed on CUDA, 32 elsewhere).",
        rich_help_panel=MACHINE,
    ),
]
CacheMb = Annotated[
    int,
    typer.Option("--cache-mb", min=1, help="Cache of decoded pixels in megabytes.", rich_help_panel=MACHINE),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write the training log for TensorBoard.", rich_help_panel=MACHINE)
]
