"""Decisions about outputs: new, unfinished, complete, refused or busy."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from wsi_attn.errors import OutputBusyError, OutputExistsError
from wsi_attn.outputs.lock import lock_file, output_lock
from wsi_attn.outputs.names import Reservations
from wsi_attn.outputs.policy import Found, Output, State, claim, complete, decide, differences, other, same, unfinished


def output_at(path: Path, wanted: str, *beside: Path) -> Output[str]:
    """A text file that is complete if it consists of `wanted` and unfinished if it is the start of it."""

    def inspect() -> Found[str]:
        text = path.read_text() if path.exists() else None
        if text == wanted:
            return complete(text)
        return unfinished() if text is not None and wanted.startswith(text) else other("is another text")

    return Output(path, inspect, beside)


@pytest.mark.parametrize(
    ("there", "state"), [(None, State.NEW), ("wan", State.UNFINISHED), ("wanted", State.COMPLETE), ("b", State.OTHER)]
)
def test_states(there: str | None, state: State, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    if there is not None:
        path.write_text(there)
    output = output_at(path, "wanted")
    assert decide(output, overwrite=True).state is State.NEW
    if state is State.OTHER:
        with pytest.raises(OutputExistsError) as caught:
            decide(output, overwrite=False)
        assert caught.value.path == path
    else:
        assert decide(output, overwrite=False).state is state


def test_empty_folders_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".a.json.1234.tmp").touch()
    output: Output[str] = Output(tmp_path / "out", lambda: other("is full"))
    assert decide(output, overwrite=False).state is State.NEW
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(OutputExistsError) as caught:
        decide(output, overwrite=False)
    assert caught.value.path == tmp_path / "out"


def test_protected_paths_are_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    output = Output(
        tmp_path / "a.txt", unfinished, protected={folder: lambda path: f"holds {len(list(path.iterdir()))}"}
    )
    assert decide(output, overwrite=True).state is State.NEW
    folder.mkdir()
    with pytest.raises(OutputExistsError) as caught:
        decide(output, overwrite=True)
    assert caught.value.path == folder


def test_one_writer(tmp_path: Path) -> None:
    output = output_at(tmp_path / "deep" / "a.txt", "wanted")
    with claim(output, overwrite=False) as found:
        assert found.state is State.NEW
        with pytest.raises(OutputBusyError) as caught, claim(output, overwrite=True):
            pass
    assert list(tmp_path.iterdir()) == []  # nothing was written
    error = pickle.loads(pickle.dumps(caught.value))  # as from a process of a cohort
    assert (str(error), error.path) == (str(caught.value), output.path)


def test_complete_output_needs_no_lock(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("wanted")
    output = output_at(tmp_path / "a.txt", "wanted")
    with output_lock(output.path), claim(output, overwrite=False) as found:
        assert found.finished == "wanted"


def test_the_second_process_finds_what_the_first_has_finished(tmp_path: Path) -> None:
    path, answers = tmp_path / "a.txt", [unfinished(), complete("done")]
    path.touch()
    with claim(Output(path, lambda: answers.pop(0)), overwrite=False) as found:
        assert found.finished == "done"


def test_leftovers_of_a_killed_run_are_taken_up(tmp_path: Path) -> None:
    path, picture = tmp_path / "a.txt", tmp_path / "a.png"
    picture.touch()
    leftovers = [tmp_path / ".a.txt.1234.tmp", tmp_path / ".a.png.1234.tmp"]
    for leftover in leftovers:
        leftover.touch()
    output = output_at(path, "wanted", picture)
    with pytest.raises(OutputExistsError), claim(output, overwrite=False):
        pass
    lock_file(path).touch()
    with claim(output, overwrite=False) as found:
        assert found.state is State.UNFINISHED
        assert not any(leftover.exists() for leftover in leftovers)
    assert list(tmp_path.iterdir()) == [picture]


def test_a_record_from_json_equals_the_wanted_one() -> None:
    assert same({"mpp": [0.5, 0.5]}, {"mpp": (0.5, 0.5)})
    assert not same({"mpp": [0.5, 0.5], "more": 1}, {"mpp": (0.5, 0.5)})
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b 2 instead of 3", "c None instead of 4"]


def test_names_are_reserved_for_one_input(tmp_path: Path) -> None:
    reservations = Reservations()
    for _ in range(2):
        reservations.reserve(tmp_path / "a.json", tmp_path / "a.svs")
    with pytest.raises(OutputExistsError) as caught:
        reservations.reserve(tmp_path / "a.json", tmp_path / "a.tif")
    assert caught.value.path == tmp_path / "a.json"
