"""Settings of the prediction of slides. Imports no arrays, so that the help of commands needs none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from wsi_attn.errors import UsageError
from wsi_attn.options import Option, check_fields
from wsi_attn.tasks.config import InferenceConfig

if TYPE_CHECKING:
    from wsi_attn.store.records import Referral

PLAIN_TERMS = ("entropy", "margin")
DROPOUT_TERMS = ("predictive_entropy", "expected_entropy", "mutual_information")
"""Uncertainty terms of every prediction, and those of Monte-Carlo dropout."""


@dataclass(frozen=True)
class PredictConfig(InferenceConfig):
    """Prediction settings.

    Raises
    ------
    UsageError : a value is out of range, or `refer_by` is given without `refer_above` or is no term of the prediction.
    """

    allow_out_of_distribution: Annotated[
        bool,
        Option("Predict inputs whose colours lie outside the training distribution; the record carries a warning."),
    ] = False
    workers: int | None = None
    """Number of reader threads; `thread_limit` by default."""
    calibrate: bool = True
    """Apply the temperature of the checkpoint, if it has one."""
    coverage: Annotated[
        float | None,
        Option("Also predict a label set that contains the true label with this probability: 0.8, 0.9 or 0.95."),
    ] = None
    exhaustive: Annotated[
        bool, Option("Also score every tissue tile at high resolution, for complete heatmaps; takes much longer.")
    ] = False
    mc_dropout: Annotated[
        int,
        Option("Number of Monte-Carlo dropout passes for uncertainty; 0 disables them.", metavar="N", at_least=0),
    ] = 0
    seed: Annotated[int, Option("Random seed.")] = 0
    refer_above: Annotated[
        float | None, Option("Refer slides to an expert if the uncertainty exceeds this threshold.")
    ] = None
    refer_by: Annotated[
        str | None,
        Option(
            "Uncertainty for --refer-above: entropy or margin; with --mc-dropout also predictive_entropy, "
            "expected_entropy or mutual_information.",
            suggestions=lambda: (*PLAIN_TERMS, *DROPOUT_TERMS),
            default=PLAIN_TERMS[0],
        ),
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.refer_above is None and self.refer_by is not None:
            raise UsageError("--refer-by has no effect without --refer-above; add --refer-above with a threshold")
        known = (*PLAIN_TERMS, *(DROPOUT_TERMS if self.mc_dropout else ()))
        if self.refer_by is not None and self.refer_by not in known:
            hint = "" if self.mc_dropout else f"; {', '.join(DROPOUT_TERMS)} need --mc-dropout"
            raise UsageError(f"--refer-by {self.refer_by}: must be one of {', '.join(known)}{hint}")

    @property
    def referral(self) -> Referral | None:
        """The rule that refers slides to an expert."""
        from wsi_attn.store.records import Referral

        return None if self.refer_above is None else Referral(self.refer_by or PLAIN_TERMS[0], self.refer_above)
