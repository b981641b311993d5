"""The page of a report: well formed, self-contained, and honest about what is missing."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.unit.evaluate.reports import whole_report
from wsi_attn.evaluate.html import Picture, write_html_report
from wsi_attn.evaluate.report import Origin, evaluate_predictions

NOTICE = "Research use only. Not a medical device, not validated for any decision about a patient."

HEADINGS = (
    "Metrics",
    "By label",
    "Confusion matrix",
    "Curves",
    "Calibration",
    "Prediction sets",
    "Operating point",
    "Uncertainty",
    "Attention and annotated regions",
    "Attention as it was learned",
    "Images without an answer, in none of the figures",
    "Origin",
)

VOID = {"meta", "br", "img", "polyline", "circle", "rect"}


class Page(HTMLParser):
    """Tags of a page; fails where one is closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.text = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def page(tmp_path):
    def write(report):
        write_html_report(tmp_path / "report.html", report)
        return (tmp_path / "report.html").read_text()

    return write


def test_the_page_is_well_formed_and_needs_no_network(page):
    text = page(whole_report())
    parsed = Page(text)
    assert parsed.open == []
    assert parsed.addresses == []
    assert "script" not in parsed.tags
    assert "link" not in parsed.tags
    assert not re.search(r"https?:|@import|url\(", text)
    assert parsed.tags.count("svg") == 5


def test_every_section_is_there(page):
    text = page(whole_report())
    assert tuple(re.findall("<h2>(.*)</h2>", text)) == HEADINGS
    assert NOTICE in text
    for said in (
        "wsi-attn evaluate run",
        "wsi-attn ",
        "percentile bootstrap",
        "too few validation images",
        "<td>seed</td>",
    ):
        assert said in text


def test_numbers_are_those_of_the_report(page):
    report = whole_report()
    text = page(report)
    found = report.record()["auroc"]
    assert f"<td>{found['value']:.3f}</td><td>[{found['low']:.3f}, {found['high']:.3f}]</td>" in text
    for row in report.record()["confusion_matrix"]:
        assert all(f">{count}</td>" in text for count in row)


def test_a_report_of_training_has_fewer_sections(page):
    labels = np.array([0, 1] * 10)
    report = evaluate_predictions(
        labels,
        np.eye(2)[labels] * 0.6 + 0.2,
        ["a", "b"],
        [str(i) for i in range(20)],
        Origin("val", 0, "", {"name": "m"}),
    )
    text = page(report)
    assert Page(text).tags.count("svg") == 4
    assert "Prediction sets" not in text
    assert "Attention" not in text


def test_one_image_of_one_class_makes_a_page_too(page):
    report = evaluate_predictions([0], [[0.7, 0.3]], ["a", "b"], ["p"], Origin("test", 0, "", {"name": "m"}))
    text = page(report)
    assert Page(text).open == []
    assert "nan" not in text.lower()


def test_names_from_outside_are_escaped(page):
    labels = np.array([0, 1] * 5)
    names = ["<script>alert(1)</script>", 'b" onload="x']
    report = evaluate_predictions(labels, np.eye(2)[labels], names, ["p"] * 10, Origin("test", 0, "", {"name": "<b>"}))
    parsed = Page(page(report))
    assert "script" not in parsed.tags
    assert "b" not in parsed.tags


def test_uncertain_images_are_shown_with_what_they_are(tmp_path):
    pictures = [Picture(b"\xff\xd8one", "a.png: <lung>", False), Picture(b"\xff\xd8two", "b.png", True)]
    write_html_report(tmp_path / "report.html", whole_report(), pictures)
    text = (tmp_path / "report.html").read_text()
    parsed = Page(text)
    assert parsed.open == []
    assert parsed.tags.count("img") == 2
    assert text.index("/9hvbmU=") < text.index("/9h0d28=")
    assert text.count('class="wrong"') == text.count('class="right"') == 1
    assert "&lt;lung&gt;" in text
