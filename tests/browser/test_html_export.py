"""The exported page in a real browser, from disk: it draws, the slider and the choice act, patches move the view."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.export.marks import MARK, SIZE, cell_region, make_subject
from wsi_attn.export.config import ExportConfig
from wsi_attn.export.run import export_subject

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"), pytest.mark.slow]


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium; skips where there is none."""
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("there is no Chromium with its driver here")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1200,800")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture
def page(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page of a marked slide, opened from disk and drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    path = tmp_path / "page.html"
    export_subject(make_subject("non-dyadic", tmp_path, monkeypatch), "html", path, ExportConfig(workers=1))
    browser.get(path.as_uri())
    WebDriverWait(browser, 30).until(lambda b: b.execute_script("return document.body.dataset.ready") == "yes")
    return browser


def pixel_at(browser: Any, x0: float, y0: float) -> list[int]:
    """Colour of the viewer at a level-0 position, from its own canvas."""
    return browser.execute_async_script(
        """
        const [x0, y0, done] = arguments, viewer = wsiAttn.viewer, unit = 1 / wsiAttn.data.slide.width;
        setTimeout(() => {
          const point = viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(x0 * unit, y0 * unit), true);
          const canvas = viewer.drawer.canvas, ratio = canvas.width / viewer.container.clientWidth;
          const data = canvas.getContext("2d").getImageData(point.x * ratio, point.y * ratio, 1, 1).data;
          done(Array.from(data));
        }, 1500);  // fades and springs end
        """,
        x0,
        y0,
    )


def test_it_loads_without_a_word_of_the_console(page: Any) -> None:
    assert page.get_log("browser") == []
    assert page.title.startswith("marked.tif")
    assert (
        page.execute_script("return performance.getEntriesByType('resource').filter(e => /^http/.test(e.name))") == []
    )


def test_mark_and_colour_lie_where_they_are(page: Any) -> None:
    left, top, right, bottom = cell_region()
    beside = pixel_at(page, left - 8, bottom - 2)
    assert max(beside[:3]) - min(beside[:3]) < 12  # glass, grey
    assert max(pixel_at(page, MARK.x1 - 6, MARK.y + 5)[:3]) < 90  # the mark, outside of the coloured cell or below it
    page.execute_script("document.getElementById('opacity').value = 100;"
                        "document.getElementById('opacity').dispatchEvent(new Event('input'))")  # fmt: skip
    middle = pixel_at(page, (left + right) / 2, (top + bottom) / 2)
    assert np.ptp(middle[:3]) > 60  # colour
    outside = pixel_at(page, right + 8, bottom + 8)
    assert max(outside[:3]) - min(outside[:3]) < 12


def test_slider_and_choice(page: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    left, top, right, bottom = cell_region()
    middle = (left + right) / 2, (top + bottom) / 2
    choice = Select(page.find_element(By.ID, "layer"))
    assert [option.text for option in choice.options][:2] == ["Attention rank", "Evidence for tumour"]
    coloured = pixel_at(page, *middle)
    choice.select_by_visible_text("None (slide only)")
    assert pixel_at(page, *middle) != coloured
    choice.select_by_visible_text("Evidence for tumour")
    assert "Evidence for tumour" in page.find_element(By.ID, "bar-words").text


def test_a_patch_brings_its_place_into_view(page: Any) -> None:
    from selenium.webdriver.common.by import By

    (button,) = page.find_elements(By.CSS_SELECTOR, "#patches button")
    assert f"x {MARK.x}, y {MARK.y}" in button.text
    page.execute_script("arguments[0].click()", button)
    centre = page.execute_script(
        "const c = wsiAttn.viewer.viewport.getCenter(false), w = wsiAttn.data.slide.width; return [c.x * w, c.y * w]"
    )
    assert np.abs(np.subtract(centre, (MARK.x + MARK.width / 2, MARK.y + MARK.height / 2))).max() < 1
    assert button.get_attribute("aria-pressed") == "true"
    assert SIZE.width == page.execute_script("return wsiAttn.data.slide.width")
