"""A real browser, headless Chromium, and a viewer serving a real slide, its store and a small cohort."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.runner import wsi_attn
from tests.conftest import DATA
from wsi_attn.data.sources import open_source
from wsi_attn.geometry import Frame, Size
from wsi_attn.store.prediction_maps import AttentionMap
from wsi_attn.store.predictions import SlidePrediction, write_prediction
from wsi_attn.store.records import AttendedRegion

SECONDS = 20
DESK, TABLET = (1400, 900), (768, 1024)


READ_OVERLAY = """
const from = window.wsiAttn.overlay.canvas, copy = new OffscreenCanvas(from.width, from.height);
const context = copy.getContext("2d", { willReadFrequently: true });
context.drawImage(from, 0, 0);
const { data } = context.getImageData(0, 0, from.width, from.height);
"""

TO_BASE64 = """
let text = "";
for (let i = 0; i < data.length; i += 9999) text += String.fromCharCode(...data.subarray(i, i + 9999));
return [from.width, from.height, btoa(text)];
"""


@dataclass(frozen=True)
class Page:
    """The viewer in the browser."""

    driver: Any
    address: str
    keys: dict[str, str]

    def open(self, fragment: str = "", size: tuple[int, int] = DESK) -> Page:
        """Reload the page and wait for its tiles."""
        self.driver.set_window_size(*size)
        self.driver.get("about:blank")
        self.driver.get(self.address + (f"#{fragment}" if fragment else ""))
        return self.settle()

    def settle(self) -> Page:
        """Wait until nothing moves and all tiles in view are drawn."""
        self.wait(
            "const v = window.wsiAttn?.stage.viewer; if (!v?.isOpen()) return false; const i = v.world.getItemAt(0);"
            "const p = v.viewport, at = p.getCenter(true), to = p.getCenter(false);"  # a move may not have begun yet
            "const far = Math.hypot(at.x - to.x, at.y - to.y) + Math.abs(p.getZoom(true) / p.getZoom(false) - 1);"
            "return far < 1e-6 && i.getFullyLoaded() && !v.isAnimating() && window.wsiAttn.overlay.size !== null"
        )
        self.js("return new Promise(done => setTimeout(() => requestAnimationFrame(() => done(1)), 60))")
        return self

    def js(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page; a promise is waited for."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str) -> None:
        """Wait until a script gives something true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, SECONDS, 0.05).until(
            lambda driver: driver.execute_script(f"return Boolean((() => {{ {script} }})())")
        )

    def click(self, selector: str) -> None:
        """Click as a mouse does: fails where something else lies over it."""
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def press(self, *keys: str) -> None:
        """Type on the page."""
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def text(self, selector: str) -> str:
        """Text of an element."""
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def place(self) -> dict[str, float]:
        """Middle of the view and zoom."""
        return self.js("return window.wsiAttn.stage.place()")

    def overlay_sum(self) -> int:
        """Something that changes when the overlay does: the sum of its opacity."""
        return self.js(READ_OVERLAY + "let s = 0; for (let i = 3; i < data.length; i += 4) s += data[i]; return s")

    def overlay(self) -> np.ndarray:
        """uint8 (rows, columns, 4): what lies over the slide."""
        width, height, data = self.js(READ_OVERLAY + TO_BASE64)
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)

    def screenshot(self) -> np.ndarray:
        """uint8 (rows, columns, 3): what is on screen."""
        import cv2

        data = np.frombuffer(self.driver.get_screenshot_as_png(), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]

    def stage_crop(self, side: int) -> np.ndarray:
        """A square of the screen around the middle of the stage."""
        box = self.js(
            "const r = document.getElementById('stage').getBoundingClientRect(); return [r.x, r.y, r.width, r.height]"
        )
        x, y = round(box[0] + box[2] / 2) - side // 2, round(box[1] + box[3] / 2) - side // 2
        return self.screenshot()[y : y + side, x : x + side]


@pytest.fixture(scope="session")
def slide_path() -> Path:
    return DATA / "cmu1_small_region.svs"


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory, slide_path: Path) -> Path:
    """The demo slide with a prediction and polygons, its store, a slide that is damaged, and two predictions alone."""
    folder = tmp_path_factory.mktemp("cohort")
    shutil.copy(slide_path, folder / "case 1.svs")
    wsi_attn("tile", slide_path, "--output", folder / "case 2.zarr", "--codec", "passthrough", "--quiet")
    (folder / "case 3.svs").write_text("no slide")
    with open_source(slide_path) as slide:
        fingerprint = slide.info.fingerprint
    values = np.full((47, 35), np.nan, np.float32)
    values[10:40, 8:28] = np.linspace(0.1, 1, 600, dtype=np.float32).reshape(30, 20)
    prediction = SlidePrediction(
        slide=str(folder / "case 1.svs"),
        size0=Size(2220, 2967),
        label="moderate",
        probabilities={"dense": 0.2, "moderate": 0.5, "sparse": 0.3},
        uncertainty={"entropy": 0.94, "margin": 0.8},
        tissue_fraction=0.34,
        unreadable_tiles=0,
        attention=(AttendedRegion(1056, 800, 128, 128, 0.6), AttendedRegion(736, 2464, 128, 128, 0.4)),
        model={"name": "browser-test", "sha256": "0" * 64},
        mpp=(0.499, 0.499),
        seconds=1.0,
        software={"wsi-attn": "0.1.0"},
        attention_map=AttentionMap(Frame(Size(35, 47), 64.0, 64.0), values),
        fingerprint=fingerprint,
    )
    write_prediction(prediction, folder / "case 1.prediction.json")
    for name, label, probability, entropy in (("case 10", "dense", 0.9, 0.3), ("case 9", "sparse", 0.8, 0.5)):
        other = replace(prediction, slide=f"/gone/{name}.svs", label=label, probabilities={label: probability})
        write_prediction(replace(other, uncertainty={"entropy": entropy}), folder / f"{name}.prediction.json")
    ring = [[900, 1300], [1300, 1300], [1300, 1700], [900, 1700], [900, 1300]]
    polygon = {"type": "Polygon", "coordinates": [ring]}
    properties = {"classification": {"name": "Tumour", "color": [200, 0, 0]}}
    feature = {"type": "Feature", "geometry": polygon, "properties": properties}
    (folder / "case 1.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return folder


@contextmanager
def serving(path: Path) -> Iterator[str]:
    """The address of a viewer that runs for as long as the block."""
    command = [sys.executable, "-m", "wsi_attn", "view", str(path), "--port", "0", "--no-open", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.stdout.close()
        process.wait(SECONDS)


@pytest.fixture(scope="session")
def address(cohort: Path) -> Iterator[str]:
    with serving(cohort) as address:
        yield address


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    service = shutil.which("chromedriver")
    if not browser or not service:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: Any, address: str) -> Iterator[Page]:
    """Every test ends with a look at the console: it must have stayed empty."""
    import urllib.request

    with urllib.request.urlopen(f"{address}slides.json", timeout=SECONDS) as answer:
        slides = json.load(answer)["slides"]
    driver.get_log("browser")
    yield Page(driver, address, {slide["name"]: slide["id"] for slide in slides})
    # OpenSeadragon warns of tiles that come after their slide was left; that is what leaving a slide looks like.
    known = ("422 (Unprocessable", "Ignoring tile")
    messages = [entry["message"] for entry in driver.get_log("browser")]
    noise = [message for message in messages if not any(part in message for part in known)]
    assert noise == []
