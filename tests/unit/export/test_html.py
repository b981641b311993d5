"""The page: one file, nothing from the network, bounded in size whatever the slide, its data safe inside."""

import base64
import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.slides import ArraySlide
from tests.unit.export.marks import make_subject, prediction_of
from wsi_attn.errors import UsageError
from wsi_attn.export import html
from wsi_attn.export import source as source_module
from wsi_attn.export.config import ExportConfig
from wsi_attn.export.html import LAYER_SIDE, MOST_BYTES, write_html
from wsi_attn.export.job import Job
from wsi_attn.export.run import export_subject
from wsi_attn.export.source import NO_LAYER, ExportSource
from wsi_attn.geometry import Frame, Size
from wsi_attn.store.prediction_maps import AttentionMap
from wsi_attn.store.records import AttendedRegion


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page's text."""
    path = tmp_path / "page.html"
    export_subject(make_subject("bounds", tmp_path, monkeypatch), "html", path, ExportConfig(workers=1))
    return path.read_text()


def test_nothing_is_fetched(page):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](?!data:)[^"']""", markup)
    assert "<link" not in markup


def test_its_scripts_are_the_ones_that_the_policy_allows(page):
    policy = re.search(r"script-src ([^;]*);", page)[1].split()
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy == [f"'sha256-{digest}'" for digest in digests]
    assert "openseadragon 6.1.1" in scripts[0]
    assert "Redistribution and use" in scripts[0]  # its licence stays with it


def test_it_says_what_it_shows_and_what_it_is_not_for(page):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert "Research use only" in page
    assert (data["label"], data["probabilities"]["tumour"], data["uncertainty"]) == ("tumour", 0.75, {"entropy": 0.5})
    assert data["origin"]["model"]["name"] == "hand-made"
    assert data["origin"]["fingerprint"]


@pytest.mark.parametrize("tag", ["button", "input", "select", "img"])
def test_controls_have_names(page, tag):
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    labelled = set(re.findall(r'<label for="([^"]+)"', markup))
    for control in re.findall(rf"(?:<label>)?<{tag}[^>]*>", markup):
        name = re.search(r'id="([^"]+)"', control)
        assert "aria-label" in control or "alt=" in control or "<label>" in control or name[1] in labelled, control


def test_names_cannot_break_out(tmp_path, monkeypatch):
    evil = "</script><script>alert(1)</script>&<!--"
    slide = ArraySlide(np.full((50, 60, 3), 200, np.uint8), name="a.svs")
    monkeypatch.setattr(source_module, "open_source", lambda _: slide)
    (tmp_path / "a.svs").touch()
    prediction = prediction_of(str(tmp_path / "a.svs"), slide.info.fingerprint, None)
    prediction = replace(prediction, label=evil, probabilities={evil: 1.0})
    subject = ExportSource(
        tmp_path / "p.json",
        "a",
        tmp_path / "a.svs",
        slide.info.fingerprint,
        slide.info.size0,
        None,
        prediction=prediction,
    )
    write_html(Job(subject, "html", tmp_path / "p.html", ExportConfig(of=(NO_LAYER,), top=1)), slide)
    text = (tmp_path / "p.html").read_text()
    assert "alert(1)</script>" not in text
    assert json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])["label"] == evil


def test_the_worst_slide_stays_below_the_limit(tmp_path, monkeypatch):
    """Noise of full size, which no JPEG shrinks, and as many heatmaps of noise as a page may hold."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3000, 4096, 3), dtype=np.uint8)
    slide = ArraySlide(pixels, name="noise.svs")
    (tmp_path / "noise.svs").touch()
    size0 = Size(4096, 3000)
    frame = Frame.covering(size0, 4096 / LAYER_SIDE, 4096 / LAYER_SIDE)
    noise = AttentionMap(frame, rng.random((frame.size.height, frame.size.width), dtype=np.float32))
    prediction = replace(
        prediction_of(str(tmp_path / "noise.svs"), slide.info.fingerprint, None),
        attention=tuple(AttendedRegion(80 * i, 50 * i, 192, 192, 0.01) for i in range(html.MOST_PATCHES)),
        maps={f"evidence:{index}": noise for index in range(html.MOST_LAYERS - 1)},
        attention_map=noise,
    )
    subject = ExportSource(
        tmp_path / "p.json", "n", tmp_path / "noise.svs", slide.info.fingerprint, size0, None, prediction=prediction
    )
    path = tmp_path / "n.html"
    write_html(Job(subject, "html", path, ExportConfig(top=html.MOST_PATCHES, workers=2)), slide)
    assert len(subject.layers) == html.MOST_LAYERS
    assert path.stat().st_size < MOST_BYTES


def test_more_patches_than_a_page_holds_are_refused(tmp_path, monkeypatch):
    subject = make_subject("bounds", tmp_path, monkeypatch)
    with pytest.raises(UsageError):
        export_subject(subject, "html", tmp_path / "p.html", ExportConfig(top=1000))
