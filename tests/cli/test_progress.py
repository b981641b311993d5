import re
from pathlib import Path

import pytest

from tests.cli.runner import in_process
from tests.cli.terminal import on_terminal
from wsi_attn.cli.progress import BatchBar, as_time

SLOW_READER = """
import time
from wsi_attn.slides import view
read_block = view.read_block
def slowly(*arguments):
    time.sleep(6)
    return read_block(*arguments)
view.read_block = slowly
"""
"""One step of reading takes longer than any display may stand still."""


def test_the_terminal_names_slide_number_and_phase_and_never_stands_still(demo_slide: Path) -> None:
    screen = on_terminal("tissue", demo_slide, setup=SLOW_READER)
    assert screen.code == 0
    name = f"[1/1] {demo_slide.name}"
    assert re.search(rf"{re.escape(name)} +reading.* 0/1 ", screen.text())
    assert "0:00:05" in screen.text()  # the time that has passed is shown and moves
    assert screen.longest_gap(name) < 5
    assert "in 6." not in screen.text()  # lines of finished inputs are for logs


def test_data_go_to_a_pipe_while_the_terminal_shows_progress(demo_slide: Path) -> None:
    screen = on_terminal("info", demo_slide, demo_slide, "--json")
    assert screen.stdout.count('"fingerprint"') == 2
    assert "fingerprint" not in screen.text()


def test_quiet_leaves_the_terminal_alone(demo_slide: Path) -> None:
    screen = on_terminal("info", demo_slide, "--quiet")
    assert screen.code == 0
    assert not screen.pieces


@pytest.mark.parametrize("quiet", [False, True])
def test_without_a_terminal_each_finished_input_is_a_line(
    demo_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    log = tmp_path / "log.txt"
    options = ["--quiet"] if quiet else []
    done = in_process(
        capsys, "--log-file", log, "tissue", demo_slide, "gone.svs", "-o", tmp_path / "out", *options, code=4
    )
    expected = [rf"\[1/2\] {demo_slide.name}: written in \d+\.\d s", r"\[2/2\] gone\.svs: failed in \d+\.\d s"]
    shown = [line for line in done.stderr.splitlines() if line.startswith("[")]
    logged = [line.partition(" ")[2] for line in log.read_text().splitlines() if " [" in line]
    for lines in [logged] if quiet else [logged, shown]:
        assert len(lines) == 2
        assert all(map(re.fullmatch, expected, lines)), lines
    assert not (quiet and shown)
    again = in_process(capsys, "tissue", demo_slide, "-o", tmp_path / "out")
    assert re.search(rf"^\[1/1\] {demo_slide.name}: skipped in ", again.stderr, re.MULTILINE)


class Shown:
    def __init__(self) -> None:
        self.left: list[str] = []

    def show(self, input_name: str, phase: str, done: int, total: int, left: str) -> None:
        self.left.append(left)


def test_time_left_is_of_the_phase_first_and_of_all_inputs_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("wsi_attn.cli.progress.time.monotonic", lambda: now[0])
    view, lines = Shown(), []
    bar = BatchBar("predict", view, lines.append)
    with bar.item(1, 3, "a") as item:
        item(0, 10, "reading")
        now[0] = 4
        item(2, 10, "reading: second row")
        assert view.left[-1] == "about 0:16 left"
        item(0, 5, "scoring")
        assert view.left[-1] == ""
        now[0] = 10
    with bar.item(2, 3, "b") as item:
        now[0] = 13
        item(1, 10, "reading")
        assert view.left[-1] == "about 0:17 left in all"
        item.state = "skipped"
    assert lines == ["[1/3] a: done in 10.0 s", "[2/3] b: skipped in 3.0 s"]
    with pytest.raises(KeyboardInterrupt), bar.item(3, 3, "c"):
        raise KeyboardInterrupt
    with pytest.raises(ValueError), bar.item(3, 3, "c"):
        raise ValueError
    assert lines[2:] == ["[3/3] c: failed in 0.0 s"]


def test_a_resumed_phase_is_timed_from_where_it_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("wsi_attn.cli.progress.time.monotonic", lambda: now[0])
    view = Shown()
    bar = BatchBar("train", view, lambda line: None)
    bar(90, 100, "training: epoch 10/10")
    now[0] = 2
    bar(92, 100, "training: epoch 10/10, validating")
    assert view.left[-1] == "about 0:08 left"


def test_times() -> None:
    assert [as_time(seconds) for seconds in (0, 59.6, 3723)] == ["0:00", "1:00", "1:02:03"]
