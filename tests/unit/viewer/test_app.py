"""What the addresses answer, and to whom."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.slides import stained
from wsi_attn.viewer.access import Access, is_loopback
from wsi_attn.viewer.app import Settings, create_app
from wsi_attn.viewer.collection import collect
from wsi_attn.viewer.viewer_slide import ViewerSlide

HOST = "http://127.0.0.1:8765"


@pytest.fixture
def client(cohort: Path) -> Iterator[TestClient]:
    with TestClient(create_app(collect([cohort]), Settings(Access(8765), workers=2)), base_url=HOST) as client:
        yield client


@pytest.fixture
def keys(client: TestClient) -> dict[str, str]:
    return {slide["name"]: slide["id"] for slide in client.get("/slides.json").json()["slides"]}


def test_page_holds_what_it_begins_with(client: TestClient, keys: dict[str, str]) -> None:
    text = client.get("/").text
    beginning = json.loads(text.partition('id="beginning">')[2].partition("</script>")[0])
    assert [slide["id"] for slide in beginning["slides"]] == list(keys.values())
    assert beginning["record"] == client.get(f"/slides/{keys['first.png']}.json").json()


def test_names_cannot_end_the_data_of_the_page(image: Callable[..., Path]) -> None:
    path = image("a.png")
    evil = path.rename(path.with_name("a<script>alert(1)<.png"))
    with TestClient(create_app(collect([evil]), Settings(Access(8765))), base_url=HOST) as client:
        assert "<script>alert" not in client.get("/").text


def test_list(client: TestClient) -> None:
    first, second, gone = client.get("/slides.json").json()["slides"]
    assert (first["label"], first["probability"], first["uncertainty"]) == ("dense", 0.7, {"entropy": 0.88})
    assert (second["label"], second["probability"]) == (None, None)
    assert not gone["pixels"]


def test_slide(client: TestClient, keys: dict[str, str]) -> None:
    slide = client.get(f"/slides/{keys['first.png']}.json").json()
    assert slide["size"] == [700, 500]
    assert [level["columns"] for level in slide["levels"]] == [1, 2]
    assert [layer["title"] for layer in slide["layers"]] == ["Attention rank"]
    assert len(slide["regions"]) == 2
    assert ["Model", "test-model"] in slide["provenance"]
    assert slide["warnings"] == ["1 tiles could not be read during prediction."]


def test_prediction_without_slide(client: TestClient, keys: dict[str, str]) -> None:
    slide = client.get(f"/slides/{keys['gone.svs']}.json").json()
    assert slide["label"] == "sparse"
    assert "not found" in slide["warnings"][0]
    assert client.get(f"/slides/{keys['gone.svs']}/tiles/0/0_0.jpg").status_code == 422


def test_prediction_of_another_file_is_not_drawn(
    tmp_path: Path, image: Callable[..., Path], predicted: Callable[..., Path]
) -> None:
    slide = image("a.png")
    collection = collect([slide, predicted(tmp_path / "a.prediction.json", str(slide), "f" * 64)])
    (key,) = collection.entries
    with TestClient(create_app(collection, Settings(Access(8765))), base_url=HOST) as client:
        record = client.get(f"/slides/{key}.json").json()
    assert record["layers"] == record["regions"] == []
    assert "another file" in record["warnings"][0]


def test_tiles_are_the_slide(client: TestClient, keys: dict[str, str]) -> None:
    array = stained(700, 500, 2)
    answer = client.get(f"/slides/{keys['second.png']}/tiles/1/1_0.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert pixels.shape == (500, 188, 3)
    assert np.abs(pixels.astype(int) - array[:, 512:]).mean() < 6
    whole = np.asarray(Image.open(io.BytesIO(client.get(f"/slides/{keys['second.png']}/tiles/0/0_0.jpg").content)))
    assert whole.shape == (250, 350, 3)


@pytest.mark.parametrize("place", ["9/0_0", "0/1_0", "0/0_1", "1/2_0"])
def test_no_such_tile(client: TestClient, keys: dict[str, str], place: str) -> None:
    assert client.get(f"/slides/{keys['first.png']}/tiles/{place}.jpg").status_code == 404


def test_deepzoom(client: TestClient, keys: dict[str, str]) -> None:
    key = keys["first.png"]
    assert 'TileSize="512"' in client.get(f"/slides/{key}.dzi").text
    sizes = {}
    for level in (0, 9, 10):
        sizes[level] = Image.open(io.BytesIO(client.get(f"/slides/{key}_files/{level}/0_0.jpg").content)).size
    assert sizes == {0: (1, 1), 9: (350, 250), 10: (512, 500)}
    assert client.get(f"/slides/{key}_files/11/0_0.jpg").status_code == 404


def test_caching(client: TestClient, keys: dict[str, str]) -> None:
    address = f"/slides/{keys['first.png']}/tiles/0/0_0.jpg"
    answer = client.get(address)
    assert "no-cache" in answer.headers["cache-control"]
    assert "immutable" in client.get(f"{address}?v=1").headers["cache-control"]
    again = client.get(address, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_overlays(client: TestClient, keys: dict[str, str]) -> None:
    first, second = keys["first.png"], keys["second.png"]
    layer = Image.open(io.BytesIO(client.get(f"/slides/{first}/layers/0.png").content))
    assert (layer.size, layer.mode) == ((8, 6), "RGBA")
    assert layer.getpixel((0, 0)) == (0, 0, 0, 0)
    assert client.get(f"/slides/{first}/layers/1.png").status_code == 404
    assert client.get(f"/slides/{second}/layers/0.png").status_code == 404
    (polygon,) = client.get(f"/slides/{second}/polygons.json").json()["polygons"]
    assert polygon["rings"] == [[[50, 50], [150, 50], [150, 120], [50, 50]]]
    (ring,) = client.get(f"/slides/{first}/tissue.json").json()["rings"]
    x, y = np.array(ring).T
    assert (abs(x.min() - 105), abs(x.max() - 595), abs(y.min() - 75), abs(y.max() - 425)) < (12, 12, 12, 12)


def test_a_slide_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    path = tmp_path / "fake.svs"
    path.write_text("no slide")
    collection = collect([path])
    (key,) = collection.entries
    with TestClient(create_app(collection, Settings(Access(8765))), base_url=HOST) as client:
        answer = client.get(f"/slides/{key}.json")
    assert answer.status_code == 422
    assert "Cannot open" in answer.json()["error"]


@pytest.mark.parametrize(
    "address",
    [
        "/secret.txt",
        "/static/secret.txt",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2f..%2fapp.py",
        "/slides/secret.txt",
        "/slides/..%2fsecret.txt.json",
        "/slides/000000000000.json",
        "/slides/%2fetc%2fpasswd_files/0/0_0.jpg",
    ],
)
def test_nothing_else_is_reached(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 404
    assert "nobody may read" not in answer.text


def test_headers_of_every_answer(client: TestClient) -> None:
    for address in ("/", "/slides.json", "/static/main.js", "/nothing"):
        headers = client.get(address).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


def test_only_reading(client: TestClient) -> None:
    assert client.post("/slides.json").status_code == 405
    assert client.delete("/").status_code == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8765", 200),
        ("localhost:9", 200),
        ("[::1]:8765", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:8765", 421),
        ("", 421),
        ("[::1]evil.example", 421),
        ("[::1]:8765.evil.example", 421),
        ("[127.0.0.1]", 421),
        ("[localhost]:8765", 421),
        ("[::1", 421),
        ("::1", 421),
        ("localhost:8765@evil.example", 421),
        ("localhost/evil", 421),
    ],
)
def test_host_names(client: TestClient, host: str, status: int) -> None:
    assert client.get("/slides.json", headers={"Host": host}).status_code == status


def test_token(cohort: Path) -> None:
    app = create_app(collect([cohort]), Settings(Access(8765, "right-token")))
    with TestClient(app, base_url="http://lab.example:8765", follow_redirects=False) as client:
        assert client.get("/").status_code == 403
        assert client.get("/?token=wrong").status_code == 403
        assert client.get("/slides.json", headers={"Cookie": "wsi_attn_8765=wrong"}).status_code == 403
        answer = client.get("http://lab.example:8765//evil.example/?token=right-token&v=1")
        assert (answer.status_code, answer.headers["location"]) == (303, "/evil.example/?v=1")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert client.get("/slides.json").status_code == 200


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True)]
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "lab.example", "", "localhost.evil.example"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_reverse_proxy_with_a_path_and_a_name(cohort: Path) -> None:
    app = create_app(collect([cohort]), Settings(Access(8765, hosts=("Lab.example",), root="/pathology/slides")))
    with TestClient(app, base_url="https://lab.example", follow_redirects=False) as client:
        for before in ("/pathology/slides", ""):  # whether the proxy removes the path or not
            assert client.get(f"{before}/").status_code == 200
            key = client.get(f"{before}/slides.json").json()["slides"][0]["id"]
            assert client.get(f"{before}/slides/{key}/tiles/0/0_0.jpg").status_code == 200
            assert client.get(f"{before}/static/main.js").status_code == 200
        answer = client.get("/pathology/slides?a=1")
        assert (answer.status_code, answer.headers["location"]) == (307, "/pathology/slides/?a=1")
        assert client.get("/pathology/slidesx/").status_code == 404
        assert client.get("/", headers={"Host": "other.example"}).status_code == 421
    app = create_app(collect([cohort]), Settings(Access(8765, "right-token", root="/slides")))
    with TestClient(app, base_url="https://lab.example", follow_redirects=False) as client:
        assert client.get("/slides/?token=right-token").headers["location"] == "/slides/"


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "1.0", "٣", "99999"])
def test_numbers_out_of_range_are_no_layers(client: TestClient, keys: dict[str, str], number: str) -> None:
    answer = client.get(f"/slides/{keys['first.png']}/layers/{number}.png")
    assert answer.status_code == 404
    assert client.get(f"/slides/{keys['first.png']}/tiles/{number}/0_0.jpg").status_code == 404


def test_errors_are_not_cached(client: TestClient, keys: dict[str, str]) -> None:
    key = keys["first.png"]
    for address in ("/nothing", "/slides/0.json", "/slides/0/tiles/0/0_0.jpg", f"/slides/{key}/tiles/0/99_99.jpg"):
        answer = client.get(address)
        assert (answer.status_code, answer.headers["cache-control"]) == (404, "no-store")
    assert client.post("/").headers["cache-control"] == "no-store"
    assert client.get("/", headers={"Host": "evil.example"}).headers["cache-control"] == "no-store"


def test_an_unexpected_error_concerns_one_request(
    client: TestClient, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("wsi_attn.viewer.records.with_pixels", fail)
        patch.setattr("wsi_attn.viewer.viewer_slide.ViewerSlide.tile", fail)
        for address in (f"/slides/{keys['first.png']}.json", f"/slides/{keys['first.png']}/tiles/1/0_0.jpg"):
            answer = client.get(address)
            assert (answer.status_code, answer.headers["cache-control"]) == (500, "no-store")
            assert "ZeroDivisionError" in answer.text
        assert client.get("/").status_code == 200
    assert client.get(f"/slides/{keys['first.png']}.json").status_code == 200


def test_slides_that_open_slowly_occupy_one_thread_each(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, release = [], threading.Event()
    sound = ViewerSlide.__init__

    def slow(self: ViewerSlide, path: Path, *rest: object) -> None:
        opened.append(path.name)
        if path.name == "second.png":
            release.wait(60)
        sound(self, path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ViewerSlide, "__init__", slow)
    app = create_app(collect([cohort]), Settings(Access(8765), workers=2))
    with TestClient(app, base_url=HOST) as client, ThreadPoolExecutor(8) as pool:
        found = {slide["name"]: slide["id"] for slide in client.get("/slides.json").json()["slides"]}
        waiting = [pool.submit(client.get, f"/slides/{found['second.png']}/tiles/0/0_0.jpg") for _ in range(6)]
        while "second.png" not in opened:
            release.wait(0.01)
        assert client.get(f"/slides/{found['first.png']}.json").status_code == 200
        release.set()
        assert {each.result().status_code for each in waiting} == {200}
    assert opened.count("second.png") == 1
