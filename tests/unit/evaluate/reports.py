"""A report with every section, for the tests of the page."""

import numpy as np

from wsi_attn.evaluate.attention_scores import AttentionScores, attention_section
from wsi_attn.evaluate.intervals import resample_groups
from wsi_attn.evaluate.report import Origin, evaluate_predictions
from wsi_attn.evaluate.sections import OperatingPoint, calibration_section, conformal_section, operating_section
from wsi_attn.evaluate.uncertainty import entropy, uncertainty_section
from wsi_attn.models.calibration import Calibration, with_temperature

LABELS = ["lung", "skin", "colon"]


def whole_report():
    """What `wsi-attn evaluate` gives at its fullest, from drawn answers."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    before = generator.dirichlet(np.ones(3), 60) + 0.7 * np.eye(3)[labels]
    before /= before.sum(axis=1, keepdims=True)
    after = with_temperature(before, 1.7)
    groups = [str(index // 3) for index in range(60)]
    resamples = resample_groups(groups, 0)
    calibrations = [Calibration(temperature=1.7, temperature_fitted=True, validation_images=30)]
    scores = [AttentionScores({"pointing_game": 1.0, "auprc": 0.4}, {"pointing_game": 0.1, "auprc": 0.1})] * 5
    origin = Origin("test", 0, "wsi-attn evaluate run", {"name": "m"})
    sections = {
        "calibration": calibration_section(labels, before, after, resamples, calibrations),
        "conformal": conformal_section(labels, after, {"0.9": 0.6, "0.95": None}, resamples, calibrations),
        "operating_point": operating_section(
            labels == 1, after[:, 1], OperatingPoint("skin", 0.95, 0.3), resamples, "12 validation images"
        ),
        "attention": attention_section(scores, groups[:5], 7, 0),
        "uncertainty": uncertainty_section(
            {"entropy": entropy(after)}, "entropy", after.argmax(axis=1) != labels, resamples, passes=0
        ),
        "learned_attention": {"16": {"gate_mean": 0.4, "beta": 0.1, "gamma": None}},
        "unanswered": ["Cannot read bad.png: it ends early"],
    }
    return evaluate_predictions(labels, after, LABELS, groups, origin).with_sections(**sections)
