"""The experiments: a table of tasks, each with its data set, its options, and its arms.

The first arm of a task is the system that it is about; every other arm is compared with it, in the first measure.
Options of `wsi-attn train` that are not given here have their defaults, among them EfficientNet-Lite backbones with
ImageNet weights. Settings may be changed only by what validation rows say (`python -m experiments.run TASK --trial
OPTIONS`).
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments import data


@dataclass(frozen=True)
class Arm:
    """One way to answer.

    Attributes
    ----------
    name, options
        Name, and options of `wsi-attn train`.
    shared
        Whether it also has the options of training and evaluation that the task's arms share; a probe has its own.
    variant
        Control data set of `data.VARIANTS` that it is trained and tested on; the task's own by default.
    mean_of
        Arms whose probabilities are averaged; such an arm is computed and not trained.
    """

    name: str
    options: str = ""
    shared: bool = True
    variant: str = ""
    mean_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A data set, its arms, and what is measured.

    Attributes
    ----------
    name, title
        Name of the command and the file, and heading of the table.
    system
        System it is about.
    make
        Maker of the data set.
    options
        Of training, shared by the arms.
    arms
        The system itself first.
    measures
        Names that `answers` knows; differences are of the first.
    minutes
        Of one run of the first arm on one thread; over 10, there are three seeds instead of five.
    evaluation
        Options of `wsi-attn evaluate`, shared by the arms.
    """

    name: str
    title: str
    system: str
    make: data.Maker
    options: str
    arms: tuple[Arm, ...]
    measures: tuple[str, ...] = ("balanced_accuracy", "auroc", "accuracy")
    minutes: float = 5
    evaluation: str = ""

    @property
    def seeds(self) -> range:
        """Seeds that are run by default."""
        return range(5 if self.minutes < 10 else 3)


BALANCED = "--class-weights balanced"
"""Where the first measure is the balanced accuracy, all arms weigh the classes alike."""

PROBE = Arm("probe", f"--model probe {BALANCED}", shared=False)
PROBE_TILES = Arm("probe-tiles", f"--model probe --probe-views 4 {BALANCED}", shared=False)
THUMBNAILS = Arm("thumbnail-svm", shared=False)
"""A support vector machine on 32 px thumbnails, without `wsi-attn train`."""


def deep(options: str, tiles: int, low: str) -> tuple[Arm, ...]:
    """Deep attention with each selection, its ablations, and networks that do not choose where to look.

    Parameters
    ----------
    options
        Of the arms that read patches.
    tiles
        Patches that cover an image.
    low
        Options of the coarse view.
    """
    patches = f"--model deep-attention {low} {options}"
    return (
        Arm("deep-attention", patches),
        Arm("deep-threshold", f"{patches} --selection threshold"),
        Arm("deep-sample", f"{patches} --selection sample"),
        PROBE,
        PROBE_TILES,
        Arm("full-resolution-cnn", "--model cnn --coarse-factor 1"),
        Arm("gated-tiles", f"{patches} --branches local --uniform-sampling --instances {tiles}"),
        Arm("low-resolution-cnn", f"--model cnn {low}"),
        Arm("uniform-sampling", f"{patches} --uniform-sampling"),
        Arm("global-only", f"{patches} --branches global"),
        Arm("local-only", f"{patches} --branches local"),
    )


def dual(*more: Arm) -> tuple[Arm, ...]:
    """Two networks fused, each alone, concatenated, their averaged probabilities, and the second on a coarser view."""
    fusion = "--model dual-cross --fusion"
    return (
        Arm("cross", f"{fusion} cross"),
        Arm("first", f"{fusion} first"),
        Arm("second", f"{fusion} second"),
        Arm("concat", f"{fusion} concat"),
        Arm("average", mean_of=("first", "second")),
        Arm("two-views", f"{fusion} cross --second-factor 2"),
        PROBE,
        *more,
    )


def joint() -> tuple[Arm, ...]:
    """Joint attention and its parts."""
    return tuple(
        Arm(kind, f"--model joint-segmentation --attention {kind}") for kind in ("joint", "pointwise", "self", "none")
    )


def care(rare: tuple[str, ...], after: int, saliency: bool) -> tuple[Arm, ...]:
    """CARE from a trained first stage, its controls, and other remedies for rare classes."""
    guided = f"--class-weights none --rare-classes {','.join(rare)} --care-reduction mean --care-weight 0.3"
    guided += f" --care-after {after}"
    return (
        Arm("care", f"{guided} --care boxes"),
        *((Arm("care-saliency", f"{guided} --care saliency"),) if saliency else ()),
        Arm("random-boxes", f"{guided} --care boxes", variant="random-boxes"),
        Arm("shuffled-boxes", f"{guided} --care boxes", variant="shuffled-boxes"),
        Arm("plain", "--class-weights none"),
        Arm("root-weights", "--class-weights root"),
        Arm("balanced-weights", "--class-weights balanced"),
        Arm("focal", "--class-weights none --loss focal"),
        Arm("resampled", "--class-weights none --resample balanced"),
        PROBE,
    )


def spatial() -> tuple[Arm, ...]:
    """The map of places, its controls, and the same network without it."""
    return (
        Arm("anchor-map", "--map-by anchor"),
        Arm("free-map", "--map-by free"),
        Arm("no-map", "--map-by none"),
        Arm("shuffled-pixels", "--map-by anchor", variant="shuffled-pixels"),
        PROBE,
    )


FINE_TUNED = "--model cnn --coarse-factor 1 --feature-stride 32 --freeze 4"
"""The last stage and the head of a pretrained network at full resolution."""

REFERRAL = ("balanced_accuracy", "auroc", "aurc", "error:100", "error:90", "error:80", "error:70", "error:50")
CELLS_RARE = ("eosinophil", "basophil")


def rare_measures(rare: tuple[str, ...]) -> tuple[str, ...]:
    """Measures of the rare classes, and overall."""
    names = "+".join(rare)
    return (f"auprc:{names}", f"recall:{names}", "balanced_accuracy", "accuracy")


TASKS = {
    task.name: task
    for task in (
        Task(
            "fungi-photographs",
            "Photographs of fungi (DeFungi), five classes, 116 test photographs",
            "deep-attention",
            data.fungi_photographs,
            f"--epochs 7 --batch-size 8 --colour 0.3 --freeze 4 --feature-stride 32 {BALANCED}",
            deep("--patch-size 112 --instances 4", 24, "--coarse-factor 2"),
            minutes=10,
        ),
        Task(
            "breast-fields",
            "Breast tissue fields (UCSB), benign or malignant, one array block left out at a time",
            "deep-attention",
            data.breast_fields,
            "--epochs 30 --batch-size 4 --colour 0.5",
            deep("--patch-size 128 --instances 8", 42, "--coarse-factor 4"),
            minutes=6,
        ),
        Task(
            "nuclei-bags",
            "Colorectal nuclei laid out as fields (CRCHistoPhenotypes), 12 test bags",
            "deep-attention",
            data.nuclei_bags,
            "--epochs 20 --batch-size 4 --colour 0.5",
            deep("--patch-size 64 --instances 24", 300, "--coarse-factor 4"),
            minutes=9,
        ),
        Task(
            "marks",
            "Marks of 16 px in tissue of 1,536 px, two patterns, default settings of `train`",
            "deep-attention",
            data.marks,
            "",
            deep("", 144, ""),
            minutes=30,
        ),
        Task(
            "chest-fusion",
            "Chest X-rays, normal or pneumonia, random photographs",
            "dual-cross",
            data.chest_x_rays,
            f"--epochs 10 --batch-size 8 --no-flip --colour 0.5 --freeze 3 {BALANCED}",
            dual(THUMBNAILS),
            REFERRAL,
            minutes=12,
            evaluation="--mc-dropout 30",
        ),
        Task(
            "fungi-crops",
            "Crops of photographs of fungi (DeFungi), five classes",
            "dual-cross",
            data.fungi_crops,
            f"--epochs 5 --batch-size 16 --colour 0.3 --coarse-factor 2 --freeze 3 {BALANCED}",
            dual(),
            REFERRAL,
            minutes=15,
            evaluation="--mc-dropout 30",
        ),
        Task(
            "skin-fusion",
            "Skin lesions (HAM10000 part), seven classes",
            "dual-cross",
            data.skin,
            f"--epochs 10 --batch-size 8 --colour 0.3 --freeze 3 {BALANCED}",
            dual(),
            REFERRAL,
            minutes=12,
            evaluation="--mc-dropout 30",
        ),
        *(
            Task(
                name,
                title,
                "joint-segmentation",
                make,
                f"--epochs {epochs} --batch-size 4 --colour 0.3",
                joint(),
                ("dice", "boundary_f", "object_f1"),
                minutes=minutes,
            )
            for name, title, make, epochs, minutes in (
                ("nuclei", "Nuclei in two stains (DSB 2018), 22 test images", data.stained_nuclei, 30, 25),
                ("tissue-nuclei", "Nuclei of tissue (MoNuSeg), six images in three folds", data.tissue_nuclei, 40, 15),
                ("vessels", "Retinal vessels (CHASE-DB1), ten children in five folds", data.vessels, 20, 45),
            )
        ),
        Task(
            "white-cells",
            "White blood cells, five kinds, three folds; eosinophils and basophils are rare",
            "care",
            data.white_cells,
            f"{FINE_TUNED} --epochs 16 --batch-size 8 --colour 0.3 --dropout 0",
            care(CELLS_RARE, 8, saliency=True),
            rare_measures(CELLS_RARE),
            minutes=5,
        ),
        Task(
            "skin-rare",
            "Skin lesions (HAM10000 part), seven classes, three of them rare; boxes found by saliency",
            "care",
            data.skin,
            f"{FINE_TUNED} --epochs 12 --batch-size 8 --colour 0.3 --dropout 0",
            care(data.SKIN_RARE, 6, saliency=False),
            rare_measures(data.SKIN_RARE),
            minutes=5,
        ),
        Task(
            "platelets",
            "Fields of blood with platelets or without (BCCD); few training fields have some",
            "care",
            data.platelets,
            "--model cnn --coarse-factor 2 --epochs 20 --batch-size 8 --colour 0.3 --dropout 0",
            care(("platelets",), 10, saliency=True),
            rare_measures(("platelets",)),
            minutes=6,
        ),
        *(
            Task(
                f"pneumonia-{images}",
                f"Pneumonia (PneumoniaMNIST, 28 px), {images} training images, 524 test images",
                "global-spatial",
                data.pneumonia(images),
                "--model global-spatial --view-size 96 --epochs 20 --batch-size 16 --colour 0.3",
                spatial(),
                minutes=2 * images / 100,
            )
            for images in (100, 200, 400)
        ),
        Task(
            "centred-cells",
            "Centred white blood cells, five kinds, three folds",
            "global-spatial",
            data.white_cells,
            f"--model global-spatial --view-size 96 --epochs 16 --batch-size 8 --colour 0.3 {BALANCED}",
            spatial(),
            minutes=6,
        ),
    )
}
