"""Registries: built-in members on first use, members of other packages, and packages that are broken."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tests.packages import install
from wsi_attn.errors import PluginError, PluginWarning, UnknownNameError
from wsi_attn.registry import Registry

GROUP = "wsi_attn.test_colours"


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[int]:
    (tmp_path / "more_colours.py").write_text("RED = 3\nWORD = 'red'\n")
    (tmp_path / "broken_colours.py").write_text("import no_such_module\n")
    points = {"red": "more_colours:RED", "word": "more_colours:WORD", "one": "more_colours:RED"}
    install(tmp_path, "more-colours", {GROUP: points})
    install(tmp_path, "broken-colours", {GROUP: {"grey": "broken_colours:GREY", "red": "broken_colours:RED"}})
    install(tmp_path, "third-colours", {GROUP: {"red": "third_colours:RED"}})
    monkeypatch.syspath_prepend(str(tmp_path))
    return Registry("colour", GROUP, {"one": "operator:index"}, lambda member: isinstance(member, int))


def test_names_of_packages_are_listed_without_an_import(colours: Registry[int]) -> None:
    with pytest.warns(PluginWarning) as told:
        assert colours.names() == ["grey", "one", "red", "word"]
    assert colours.built_in == ("one",)
    assert [str(each.message) for each in told] == [
        "The colour one of the package more-colours 1.0 is ignored: the one built in has the same name",
        "The colour red of the package more-colours 1.0 is ignored: the one of broken-colours 1.0 has the same name",
        "The colour red of the package third-colours 1.0 is ignored: the one of broken-colours 1.0 has the same name",
    ]


@pytest.mark.filterwarnings("ignore::wsi_attn.errors.PluginWarning")
def test_a_package_that_is_broken_is_named(colours: Registry[int]) -> None:
    with pytest.raises(PluginError, match=r"colour grey of the package broken-colours 1\.0 .*no_such_module"):
        colours.get("grey")
    with pytest.raises(PluginError, match="more_colours:WORD is not a colour"):
        colours.get("word")
    with pytest.raises(UnknownNameError) as caught:
        colours.get("gray")
    assert "grey" in caught.value.known
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert [name for name, _ in colours.all()] == ["one"]
    assert [str(each.message).partition(" cannot be used")[0] for each in told] == [
        "The colour grey of the package broken-colours 1.0",
        "The colour red of the package broken-colours 1.0",
        "The colour word of the package more-colours 1.0",
    ]


def test_a_built_in_member_needs_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    colours: Registry[object] = Registry("colour", GROUP, {"one": "operator:index"})
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: pytest.fail("searched"))
    assert "one" in colours
    assert colours.get("one") is colours.get("one")


def test_a_program_registers_members() -> None:
    colours: Registry[int] = Registry("colour")
    colours.register("green")(2)
    colours.register("blue")(1)
    assert colours.names() == ["blue", "green"]
    assert colours.get("green") == 2
    with pytest.raises(UnknownNameError, match="no colour named 'gren'; did you mean green"):
        colours.get("gren")
    with pytest.raises(UnknownNameError, match="known: blue, green"):
        colours.get("xyz")
