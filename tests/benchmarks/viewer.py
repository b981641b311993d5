"""What the viewer serves and how soon: python tests/benchmarks/viewer.py [SLIDE].

Prints one JSON object. Tiles a second: the viewer's, from a passthrough store, and those of OpenSlide's DeepZoom
generator with JPEG encoding, turn by turn in one run, the same number of tiles of the same size; once as functions and
once over HTTP, each behind uvicorn in a process of its own, fetched over kept connections. Memory over ten
thousand tiles, half of them rendered. Time to the first tile on screen, from navigation start, in headless Chromium
where there is one.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import openslide
import uvicorn
from openslide.deepzoom import DeepZoomGenerator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wsi_attn.lru import LruCache
from wsi_attn.viewer.access import Access
from wsi_attn.viewer.app import CACHE_BYTES, Settings, create_app
from wsi_attn.viewer.collection import collect
from wsi_attn.viewer.viewer_slide import ViewerSlide

SLIDE = Path(__file__).parents[1] / "data" / "cmu1_small_region.svs"
ROUNDS = 5
TILES = 400
CONNECTIONS = 4
MEMORY_TILES = 10_000
QUALITY = 85
PAGE_LOADS = 9


class Reference:
    """OpenSlide's DeepZoom generator and Pillow's JPEG, as its own example server has them."""

    def __init__(self, path: Path, side: int) -> None:
        self.zoom = DeepZoomGenerator(openslide.OpenSlide(str(path)), tile_size=side, overlap=0)
        self.level = self.zoom.level_count - 1
        self.grid = self.zoom.level_tiles[self.level]

    def tile(self, column: int, row: int) -> bytes:
        buffer = io.BytesIO()
        self.zoom.get_tile(self.level, (column, row)).save(buffer, "jpeg", quality=QUALITY)
        return buffer.getvalue()


def rate(work: Callable[[int], object], count: int) -> float:
    """Calls a second."""
    started = time.perf_counter()
    for index in range(count):
        work(index)
    return count / (time.perf_counter() - started)


def in_turn(ours: Callable[[], float], theirs: Callable[[], float]) -> dict[str, float]:
    """Medians of rounds of both, taken alternately, so that a busy machine slows both alike."""
    rounds = [(ours(), theirs()) for _ in range(ROUNDS)]
    ours_median, theirs_median = (statistics.median(values) for values in zip(*rounds, strict=True))
    ratio = statistics.median(a / b for a, b in rounds)
    return {"viewer": round(ours_median), "deepzoom": round(theirs_median), "ratio": round(ratio, 1)}


@contextmanager
def serving(kind: str, path: Path, side: int) -> Iterator[int]:
    """The port of a server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    process = context.Process(target=run_server, args=(kind, path, side, ports), daemon=True)
    process.start()
    yield ports.get()
    process.kill()
    process.join()


def run_server(kind: str, path: Path, side: int, ports: multiprocessing.Queue[int]) -> None:
    """Serve the viewer or the reference with uvicorn, and say at which port."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # else asyncio leaves Nagle's algorithm on
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        ports.put(listening.getsockname()[1])
        app = (
            create_app(collect([path]), Settings(Access(0)))
            if kind == "viewer"
            else reference_app(Reference(path, side))
        )
        uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none")).run(sockets=[listening])


def reference_app(reference: Reference) -> Starlette:
    def tile(request: Request) -> Response:  # not a coroutine: Starlette runs it in its threads
        return Response(reference.tile(request.path_params["x"], request.path_params["y"]), media_type="image/jpeg")

    return Starlette(routes=[Route("/{x:int}_{y:int}.jpg", tile)])


def fetch(port: int, addresses: list[str]) -> float:
    """Answers a second over kept connections, read by hand: the standard client takes longer than the server."""

    def load(part: list[str]) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as answers:
            for address in part:
                connection.sendall(f"GET {address} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                status, length = answers.readline(), 0
                assert b" 200 " in status, status
                while (line := answers.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                assert len(answers.read(length)) == length

    started = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(load, [addresses[index::CONNECTIONS] for index in range(CONNECTIONS)]))
    return len(addresses) / (time.perf_counter() - started)


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


def memory(store: Path) -> list[float]:
    """Resident megabytes after each tenth of the tiles: passthrough and rendered ones in turn, the cache kept small."""
    slide = ViewerSlide(store, LruCache(CACHE_BYTES // 16))
    finest = len(slide.levels) - 1
    columns, rows = slide.levels[finest].grid
    found = []
    for index in range(MEMORY_TILES):
        column, row = index // 2 % columns, index // 2 // columns % rows
        if index % 2:
            slide.tile(slide.levels[finest], column, row)
        else:
            number = slide.deepzoom.highest - 1
            level = slide.deepzoom.level(number)
            assert level is not None
            slide.tile(level, column % level.grid[0], row % level.grid[1])
        if (index + 1) % (MEMORY_TILES // 10) == 0:
            found.append(round(resident_mb(), 1))
    slide.close()
    return found


def first_tile(store: Path) -> dict[str, float] | None:
    """Milliseconds from navigation to the first tile on screen, in a browser already running; None without one."""
    browser, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver_path:
        return None
    from selenium import webdriver

    command = [sys.executable, "-m", "wsi_attn", "view", str(store), "--port", "0", "--no-open", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    times = []
    try:
        for _ in range(PAGE_LOADS):
            driver.execute_cdp_cmd("Network.clearBrowserCache", {})
            driver.get("about:blank")
            driver.get(address)
            time.sleep(1)
            times.append(driver.execute_script("return performance.getEntriesByName('first-tile')[0].startTime"))
    finally:
        driver.quit()
        process.kill()
        process.communicate()
    first, *later = times
    ordered = sorted(later)
    return {"first_ms": round(first), "least_ms": round(ordered[0]), "median_ms": round(statistics.median(ordered))}


def main(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "slide.zarr"
        program = [sys.executable, "-m", "wsi_attn", "tile", str(path), "--output", str(store)]
        subprocess.run([*program, "--codec", "passthrough", "--quiet"], check=True, stdout=subprocess.DEVNULL)
        slide = ViewerSlide(store, LruCache(0))
        finest = len(slide.levels) - 1
        assert slide.levels[finest].passthrough
        side = slide.levels[finest].tile.width
        columns, rows = slide.levels[finest].grid
        reference = Reference(path, side)
        columns, rows = min(columns, reference.grid[0]), min(rows, reference.grid[1])
        cells = [(index % columns, index // columns % rows) for index in range(TILES)]
        functions = in_turn(
            lambda: rate(lambda index: slide.tile(slide.levels[finest], *cells[index]), TILES),
            lambda: rate(lambda index: reference.tile(*cells[index]), TILES),
        )
        collection = collect([store])
        (key,) = collection.entries
        ours = [f"/slides/{key}/tiles/{finest}/{x}_{y}.jpg?v=1" for x, y in cells]
        theirs = [f"/{x}_{y}.jpg" for x, y in cells]
        with serving("viewer", store, side) as port, serving("deepzoom", path, side) as other:
            fetch(port, ours), fetch(other, theirs)  # warm
            over_http = in_turn(lambda: fetch(port, ours), lambda: fetch(other, theirs))
        record = {
            "slide": path.name,
            "tile": side,
            "tiles_per_second": functions,
            "tiles_per_second_http": over_http,
            "resident_mb": memory(store),
            "first_tile": first_tile(store),
        }
        slide.close()
        print(json.dumps(record))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SLIDE)
