"""The page in a real browser, on a real slide: what is seen is what the slide and the prediction say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import DESK, TABLET, Page, serving
from tests.cli.runner import wsi_attn
from wsi_attn.data.sources import open_source

pytestmark = pytest.mark.slow

SLIDES = ["case 1.svs", "case 2.zarr"]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", SLIDES)
@pytest.mark.parametrize(("x", "y", "zoom"), [(1100, 900, 1), (700, 2600, 2), (1110, 1480, 0.25)])
def test_deep_link_lands_on_the_slides_pixels(
    page: Page, slide_path: Path, name: str, x: int, y: int, zoom: float
) -> None:
    page.open(f"slide={page.keys[name]}&x={x}&y={y}&zoom={zoom}")
    for control in ("heatmap", "regions", "polygons"):
        page.js("const e = document.getElementById(arguments[0]); if (e.checked) e.click()", f"show-{control}")
    place = page.place()
    assert abs(place["x"] - x) < 1
    assert abs(place["y"] - y) < 1
    assert place["zoom"] == pytest.approx(zoom, rel=1e-3)
    seen = page.stage_crop(160)
    side = round(160 / zoom)
    with open_source(slide_path) as slide:
        pixels = slide.read_region((x - side // 2, y - side // 2), 0, (side, side))
    expected = cv2.resize(pixels, (160, 160), interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
    blurred = [cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 3) for picture in (seen, expected)]
    assert np.abs(blurred[0] - blurred[1]).mean() < 4
    shifted = np.roll(blurred[1], (8, 8), (0, 1))  # five pixels off is already worse
    assert np.abs(blurred[0] - blurred[1])[8:, 8:].mean() < np.abs(blurred[0] - shifted)[8:, 8:].mean()


def test_the_address_follows_the_view(page: Page) -> None:
    page.open(f"slide={page.keys['case 1.svs']}&x=1000&y=1000&zoom=1")
    page.press("\ue014")  # arrow right
    page.wait("return !location.hash.includes('x=1000.0')")
    page.settle()
    place = page.place()
    assert place["x"] == pytest.approx(1120, abs=1)
    assert f"x={place['x']:.1f}" in page.driver.current_url
    page.js("location.hash = arguments[0]", f"slide={page.keys['case 1.svs']}&x=1500&y=2000&zoom=2")
    page.wait("return Math.abs(window.wsiAttn.stage.place().x - 1500) < 1")
    page.js("location.hash = arguments[0]", f"slide={page.keys['case 2.zarr']}")
    page.wait("return document.title.startsWith('case 2.zarr')")


def test_overlays_toggle(page: Page) -> None:
    page.open(f"slide={page.keys['case 1.svs']}")
    page.wait("return window.wsiAttn.overlay.heatmap && window.wsiAttn.overlay.polygons.length")
    for name in ("heatmap", "regions", "polygons"):
        before, picture = page.overlay_sum(), page.stage_crop(300)
        page.click(f"#show-{name}")
        without, bare = page.overlay_sum(), page.stage_crop(300)
        assert without < before, name
        assert (picture != bare).any(), name
        page.click(f"#show-{name}")
        assert page.overlay_sum() == before, name
    before = page.overlay_sum()
    page.click("#show-tissue")
    page.wait("return window.wsiAttn.overlay.tissue")
    assert page.overlay_sum() > before


def test_heatmap_lies_where_the_model_looked(page: Page) -> None:
    """Cells 8 to 27 of 35 were looked at: colour begins at x = 512, and nothing lies left of it."""
    page.open(f"slide={page.keys['case 1.svs']}&x=512&y=1600&zoom=1")
    page.wait("return window.wsiAttn.overlay.heatmap")
    for name in ("regions", "polygons"):
        page.click(f"#show-{name}")
    overlay = page.overlay()
    row, middle = overlay.shape[0] // 2, overlay.shape[1] // 2
    left, right = overlay[row, middle - 70, 3], overlay[row, middle + 70, 3]
    assert left == 0
    assert right > 20


def test_opacity(page: Page) -> None:
    page.open(f"slide={page.keys['case 1.svs']}")
    page.wait("return window.wsiAttn.overlay.heatmap")
    for name in ("regions", "polygons"):
        page.click(f"#show-{name}")
    half = page.overlay_sum()
    page.js("document.getElementById('opacity').focus()")
    page.press("\ue012", "\ue012")  # arrow left, twice
    assert page.text("#opacity-value") == "40 %"
    assert page.overlay_sum() < half
    page.js("document.activeElement.blur()")
    page.press("]", "]", "]")
    assert page.text("#opacity-value") == "70 %"
    assert page.overlay_sum() > half
    page.press("[")
    assert page.text("#opacity-value") == "60 %"


def names(page: Page) -> list[str]:
    return page.js("return [...document.querySelectorAll('#slides .name')].map(e => e.textContent)")


def choose(page: Page, select: str, option: str) -> None:
    page.js(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('input'))",
        select,
        option,
    )


def test_list_sorts_and_filters(page: Page) -> None:
    page.open()
    assert set(names(page)) == {"case 1.svs", "case 2.zarr", "case 3.svs", "case 9.svs", "case 10.svs"}
    choose(page, "sort", "Name")
    assert names(page) == ["case 1.svs", "case 2.zarr", "case 3.svs", "case 9.svs", "case 10.svs"]
    choose(page, "sort", "Uncertainty: entropy, highest first")
    assert names(page)[:3] == ["case 1.svs", "case 9.svs", "case 10.svs"]
    choose(page, "sort", "Most probable first")
    assert names(page)[:3] == ["case 10.svs", "case 9.svs", "case 1.svs"]
    choose(page, "label-filter", "dense")
    assert names(page) == ["case 10.svs"]
    choose(page, "label-filter", "All")
    page.click("#search")
    page.press("ZARR")
    assert names(page) == ["case 2.zarr"]
    assert page.text("#count") == "1 of 5 slides"


def test_keyboard(page: Page) -> None:
    page.open(f"slide={page.keys['case 1.svs']}&x=1000&y=1500&zoom=1")
    page.press("+")
    page.settle()
    assert page.place()["zoom"] == pytest.approx(1.5, rel=1e-3)
    page.press("-", "\ue015")  # and arrow down
    page.settle()
    assert page.place()["zoom"] == pytest.approx(1, rel=1e-3)
    assert page.place()["y"] > 1550
    page.press("h")
    assert not page.js("return document.getElementById('show-heatmap').checked")
    page.press("h")
    assert page.js("return document.getElementById('show-heatmap').checked")
    page.press("j")
    page.wait("return !document.title.startsWith('case 1.svs')")
    page.press("k")
    page.wait("return document.title.startsWith('case 1.svs')")
    page.press("?")
    assert page.js("return document.getElementById('help').open")
    assert "previous slide" in page.text("#keys")
    page.press("\ue00c")  # escape
    assert not page.js("return document.getElementById('help').open")
    page.click("#search")
    page.press("h")
    assert page.js("return document.getElementById('show-heatmap').checked"), "typing is no command"


def test_regions_are_visited(page: Page) -> None:
    page.open(f"slide={page.keys['case 1.svs']}")
    page.js("document.querySelector('#regions button').scrollIntoView()")
    page.click("#regions button")
    page.wait("const p = window.wsiAttn.stage.place(); return Math.abs(p.x - 1120) < 1 && Math.abs(p.y - 864) < 1")


def test_slides_that_cannot_be_shown_say_why(page: Page) -> None:
    page.open(f"slide={page.keys['case 1.svs']}")
    page.click(f"a[data-id='{page.keys['case 9.svs']}']")
    page.wait("return document.title.startsWith('case 9.svs')")
    assert "was not found" in page.text("#warnings")
    assert page.text("#answer-label") == "sparse, probability 0.80"
    page.click(f"a[data-id='{page.keys['case 3.svs']}']")
    page.wait("return !document.getElementById('message').hidden")
    assert "Cannot open" in page.text("#message")
    page.click(f"a[data-id='{page.keys['case 2.zarr']}']")
    page.wait("return document.title.startsWith('case 2.zarr')")
    page.settle()
    assert page.js("return document.getElementById('message').hidden")


CONTRAST = """
const parse = (c) => { const v = c.match(/[\\d.]+/g).map(Number); return v.length < 4 ? [...v, 1] : v; };
const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3]));
const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = (c) => { const l = c.slice(0, 3).map((v) => linear(v / 255));
  return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2]; };
const ground = (e) => { if (!e) return [255, 255, 255]; const c = parse(getComputedStyle(e).backgroundColor);
  return c[3] === 1 ? c : over(c, ground(e.parentElement)); };
const bad = [];
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.checkVisibility({ visibilityProperty: true }) || e.closest("#stage")) continue;
  const style = getComputedStyle(e), g = ground(e), c = over(parse(style.color), g);
  const [a, b] = [light(c), light(g)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) bad.push(`${e.tagName} #${e.id} "${e.textContent.trim().slice(0, 30)}": ${ratio.toFixed(2)}`);
}
return bad;
"""

UNNAMED = """
const controls = [...document.querySelectorAll("button, input, select, a[href], [role=application]")];
const named = (e) => e.getAttribute("aria-label") || e.labels?.length || e.textContent.trim();
return controls.filter((e) => !named(e)).map((e) => e.outerHTML.slice(0, 80));
"""


@pytest.mark.parametrize("size", [DESK, TABLET], ids=["desk", "tablet"])
def test_accessibility_basics(page: Page, size: tuple[int, int]) -> None:
    page.open(f"slide={page.keys['case 1.svs']}", size)
    if size == TABLET:
        page.click("#show-list")
        page.click("#show-panel")
    assert page.js(CONTRAST) == []
    assert page.js(UNNAMED) == []
    assert page.js("return document.documentElement.lang") == "en"
    ids = page.js("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_every_control_is_reached_by_tab_and_seen(page: Page) -> None:
    page.open(f"slide={page.keys['case 1.svs']}")
    page.js("document.activeElement.blur()")
    reached = []
    for _ in range(60):
        page.press("\ue004")
        at = page.js(
            "const e = document.activeElement;"
            "const name = e.id || e.dataset.id || e.getAttribute('role') || e.tagName + e.textContent.trim();"
            "return [name, getComputedStyle(e).outlineStyle]"
        )
        if at[0] in reached or at[0].startswith("BODY"):
            break
        reached.append(at[0])
        assert at[1] != "none", at
    wanted = {"show-help", "search", "label-filter", "sort", "zoom-in", "zoom-out", "zoom-home", "application"}
    wanted |= {"show-heatmap", "opacity", "show-regions", "show-polygons", "show-tissue", page.keys["case 2.zarr"]}
    assert wanted <= set(reached), wanted - set(reached)


@pytest.mark.parametrize("size", [TABLET, TABLET[::-1]], ids=["portrait", "landscape"])
def test_tablet(page: Page, size: tuple[int, int]) -> None:
    page.open(f"slide={page.keys['case 1.svs']}", size)
    width, stage, scrolls = page.js(
        "return [innerWidth, document.getElementById('stage').clientWidth, document.documentElement.scrollWidth]"
    )
    assert stage == width == scrolls
    assert not page.js("return document.getElementById('list-pane').checkVisibility({visibilityProperty: true})")
    page.click("#show-list")
    assert page.js("return document.getElementById('show-list').getAttribute('aria-expanded')") == "true"
    page.click(f"a[data-id='{page.keys['case 2.zarr']}']")
    page.wait("return document.title.startsWith('case 2.zarr')")
    small = page.js(
        "return [...document.querySelectorAll('button, #slides a')]"
        ".filter(e => e.checkVisibility({visibilityProperty: true}) && e.getBoundingClientRect().height < 44)"
        ".map(e => e.id || e.textContent)"
    )
    assert small == []


def test_first_tile_is_marked_once(page: Page) -> None:
    """What tests/benchmarks/viewer.py reads the time of the first tile from."""
    page.open(f"slide={page.keys['case 1.svs']}")
    assert page.js("return performance.getEntriesByName('first-tile').length") == 1


@pytest.mark.skipif(not os.environ.get("WSI_ATTN_UPDATE_DOCS"), reason="WSI_ATTN_UPDATE_DOCS=1 writes docs/viewer.png")
def test_screenshot_of_the_docs(driver: Any, slide_path: Path, tmp_path: Path) -> None:
    wsi_attn("tile", slide_path, "--output", tmp_path, "--quiet")
    wsi_attn("predict", tmp_path / "cmu1_small_region.zarr", "--output", tmp_path, "--quiet")
    with serving(tmp_path / "cmu1_small_region.prediction.json") as address:
        page = Page(driver, address, {}).open(size=(1280, 860))
        page.wait("return window.wsiAttn.overlay.heatmap")
        picture = Image.fromarray(page.screenshot())
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=4).save(DOCS / "viewer.png", optimize=True)
    assert (DOCS / "viewer.png").stat().st_size < 300_000
