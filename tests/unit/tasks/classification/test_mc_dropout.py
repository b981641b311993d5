"""Passes with dropout: off by default, seeded, equal to passes of the whole network; referral."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.slides import stained
from wsi_attn.data.inputs import Input
from wsi_attn.data.sources import open_source
from wsi_attn.errors import OutputExistsError, UsageError
from wsi_attn.inference.batch import Batch, run_inputs
from wsi_attn.models.base import SlideModel
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.spec import ModelSpec
from wsi_attn.models.systems import build_network
from wsi_attn.store.predictions import SlidePrediction, read_prediction
from wsi_attn.tasks.base import inference_of
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.mc_dropout import dropout_on, dropout_passes
from wsi_attn.tasks.classification.slide import predict_slide
from wsi_attn.testing.models import batch_of, noise

PLAIN = PredictConfig(workers=1)
MANY = replace(PLAIN, mc_dropout=12)

SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"coarse_factor": 2, "coarse_widths": [8, 8]},
    "deep-attention": {
        "coarse_factor": 2, "coarse_widths": [8, 8], "patch_widths": [8, 8], "patch_size": 32, "instances": 2,
    },
    "global-spatial": {"view_size": 32, "coarse_widths": [8, 8]},
    "dual-cross": {
        "backbone": "small", "second_backbone": "small-vgg", "coarse_widths": [4, 4, 8, 8], "widths": [8, 8],
        "fused_width": 16, "hidden": 8,
    },
}  # fmt: skip


def network_of(system: str, **options: Any) -> SlideModel:
    torch.manual_seed(0)
    return build_network(system, {"classes": 3, **SMALL[system], **options}).eval()


def checkpoint(system: str, **options: Any) -> Checkpoint:
    spec = ModelSpec(("a", "b", "c"), None, "any", "none")
    return Checkpoint("tiny", "0" * 64, system, spec, network_of(system, **options))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(stained(120, 80, 0)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def answer(image: Path, system: str, config: PredictConfig, **options: Any) -> SlidePrediction:
    with open_source(image) as slide:
        return predict_slide(slide, checkpoint(system, **options), config)


@pytest.mark.parametrize("system", SMALL)
def test_passes_change_no_answer_and_repeat(system: str, image: Path) -> None:
    plain, first, again, other = (
        answer(image, system, config) for config in (PLAIN, MANY, MANY, replace(MANY, seed=1))
    )
    assert set(plain.uncertainty) == {"entropy", "margin"}
    assert first.probabilities == plain.probabilities
    assert first.uncertainty == again.uncertainty
    terms = first.uncertainty
    assert 0 < terms["mutual_information"] <= terms["predictive_entropy"] <= np.log(3)
    assert other.uncertainty["mutual_information"] != terms["mutual_information"]


@pytest.mark.parametrize("system", SMALL)
def test_head_alone_equals_the_whole_network(system: str) -> None:
    network = network_of(system, **({"branches": "global"} if system == "deep-attention" else {}))
    batch = batch_of([noise(96, 96)], network)
    with torch.no_grad():
        pooled = network(batch).pooled
        with dropout_on(network):
            torch.manual_seed(5)
            whole = network(batch).logits
            torch.manual_seed(5)
            head = network.decide(pooled)
    if system != "deep-attention":  # whose other heads draw before it
        assert torch.allclose(whole, head, atol=1e-5)
    network = network_of(system)
    output = network(batch_of([noise(96, 96)], network))
    assert torch.allclose(output.logits, network.decide(output.pooled), atol=1e-5)


@pytest.mark.parametrize("system", SMALL)
def test_batch_statistics_and_modes_stay(system: str) -> None:
    network = network_of(system)
    pooled = network(batch_of([noise(96, 96)], network)).pooled.detach()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    passes = dropout_passes(network, pooled, 40, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert passes.shape == (40, 3)
    assert len(np.unique(passes[:, 0])) > 20
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_mean_of_a_linear_head_is_its_plain_answer() -> None:
    network = network_of("cnn", dropout=0.5)
    pooled = torch.randn(1, 8)
    with torch.no_grad(), dropout_on(network):
        torch.manual_seed(0)
        drawn = network.decide(pooled.expand(20000, -1))
        error = drawn.std(dim=0) / 20000**0.5
    plain = network.decide(pooled)[0].detach()
    assert ((drawn.mean(dim=0) - plain).abs() < 5 * error).all()


def test_no_dropout_is_said(image: Path) -> None:
    with pytest.raises(UsageError, match="without dropout"):
        answer(image, "cnn", MANY, dropout=0.0)


def test_referral_is_recorded_and_kept(image: Path, tmp_path: Path) -> None:
    level = answer(image, "cnn", MANY).uncertainty["mutual_information"]
    for above, wanted in ((level - 1e-4, True), (level, False)):
        config = replace(MANY, refer_by="mutual_information", refer_above=above)
        inference, batch = inference_of(checkpoint("cnn"), config), Batch(tmp_path / f"out{wanted}")
        (outcome,) = run_inputs([Input(image)], inference, batch)
        found = read_prediction(outcome.answer.file)
        assert found.refer is wanted
        assert found.record()["refer"] is wanted
        assert (found.mc_dropout, found.referral) == (12, config.referral)
        (again,) = run_inputs([Input(image)], inference, batch)
        assert again.state == "skipped"
    assert "refer" not in answer(image, "cnn", PLAIN).record()
    (other,) = run_inputs([Input(image)], inference_of(checkpoint("cnn"), PLAIN), Batch(tmp_path / "outTrue"))
    assert isinstance(other.error, OutputExistsError)


def test_referral_needs_its_term(image: Path) -> None:
    with pytest.raises(UsageError, match="need --mc-dropout"):
        answer(image, "cnn", replace(PLAIN, refer_by="mutual_information", refer_above=0.1))
    with pytest.raises(UsageError, match="must be one of entropy, margin"):
        answer(image, "cnn", replace(MANY, refer_by="doubt", refer_above=0.1))
