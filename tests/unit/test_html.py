"""Templates: values are escaped, missing ones are errors, and each template is loaded from the package."""

import json
import re

import pytest
from jinja2 import UndefinedError

from wsi_attn.html import render


def test_values_are_escaped():
    page = render("store/notebook.html.jinja", rows=[("<b>", 'it\'s "x" & y')], png="")
    assert "&lt;b&gt;" in page
    assert "it&#39;s &#34;x&#34; &amp; y" in page


def test_a_missing_value_is_an_error():
    with pytest.raises(UndefinedError, match="png"):
        render("store/notebook.html.jinja", rows=[])


def test_data_of_a_page_starts_no_tag_and_keeps_letters():
    empty = dict.fromkeys(("title", "style", "mark", "library", "script"), "")
    page = render("export/page.html.jinja", **empty, opacity=50, hashes=[], data={"name": "</script><é>"})
    text = re.search(r'id="data">(.*?)</script>', page)[1]
    assert json.loads(text) == {"name": "</script><é>"}
    assert "é" in text


def test_numbers_that_json_lacks_are_refused():
    empty = dict.fromkeys(("title", "style", "mark", "library", "script"), "")
    with pytest.raises(ValueError, match="JSON"):
        render("export/page.html.jinja", **empty, opacity=50, hashes=[], data={"x": float("nan")})
