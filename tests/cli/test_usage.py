"""Usage as typed: short usage, aliases, URLs as outputs, and the file of --config."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.runner import in_process, wsi_attn
from wsi_attn.cli.app import app
from wsi_attn.cli.options import resolve_device
from wsi_attn.errors import UsageError

COMMANDS = sorted(app.commands)
NEED_ARGUMENTS = [name for name in COMMANDS if name not in ("doctor", "models")]


@pytest.mark.parametrize("name", NEED_ARGUMENTS)
def test_without_arguments_the_usage_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = in_process(capsys, name, code=2)
    assert result.stdout == ""
    assert f"Usage: wsi-attn {name} [OPTIONS]" in result.error()
    assert f"wsi-attn {name} --help" in result.error()
    assert len(result.stderr.splitlines()) == 1


def test_unknown_commands_and_options_get_near_misses(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'tile'" in in_process(capsys, "tyle", code=2).error()
    assert "--overlap" in in_process(capsys, "tile", "--overlapp", "3", "a.svs", code=2).error()


@pytest.mark.parametrize("name", ["", *COMMANDS, "models show"])
def test_short_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    short, long = (in_process(capsys, *name.split(), option).stdout for option in ("-h", "--help"))
    assert short == long
    assert f"Usage: wsi-attn {name}".strip() in short


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_a_named_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    marks = {"bash": "complete -o default", "zsh": "#compdef wsi-attn", "fish": "complete --command wsi-attn"}
    for arguments in (("--show-completion", shell), (f"--show-completion={shell}",)):
        assert marks[shell] in in_process(capsys, *arguments).stdout
    assert "bash, zsh, fish" in in_process(capsys, "--show-completion", "ksh", code=2).error()


def test_short_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process(capsys, "-V").stdout == in_process(capsys, "--version").stdout


def test_tile_writes_into_the_current_folder(
    demo_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("tile", demo_slide, "--patch-size", "512", "--scores", "none", "--json")
    (record,) = in_process(capsys, *arguments).json()
    assert record["store"] == "cmu1_small_region.zarr"
    assert record["tiles_total"] == 5 * 6
    assert in_process(capsys, *arguments).json()[0]["state"] == "skipped"


def test_device_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [resolve_device(text) for text in ("0", "-1", "auto")] == ["cpu"] * 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device(text) for text in ("0", "1", "-1", "cuda:1")] == ["cuda:0", "cuda:1", "cpu", "cuda:1"]
    for text in ("2", "0,1", "tpu"):
        with pytest.raises(UsageError, match="--device"):
            resolve_device(text)


def test_gpus_is_an_alias(demo_slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process(capsys, "predict", demo_slide, "--gpus", "-1").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("tile", "SLIDE", "-o", "s3://bucket/x"),
        ("predict", "SLIDE", "--output", "gs://bucket/x"),
        ("tissue", "SLIDE", "-o", "https://example.org/x"),
        ("segment", "SLIDE", "-m", "m", "-o", "s3://bucket/x"),
        ("heatmap", "SLIDE", "-o", "s3://bucket/x"),
        ("export", "SLIDE", "--to", "csv", "-o", "file:///x/y.csv"),
        ("boxes", "SLIDE", "-o", "s3://bucket/x"),
        ("train", "m.csv", "-o", "s3://bucket/x"),
        ("train", "s3://bucket/m.csv", "-o", "run"),
        ("evaluate", "fungi", "m.csv", "--report", "s3://bucket/x"),
        ("models", "build", "fungi", "--data", "d", "-o", "s3://bucket/x"),
        ("--log-file", "s3://bucket/x.log", "info", "SLIDE"),
        ("heatmap", "SLIDE", "--slide", "s3://bucket/a.svs"),
    ],
)
def test_urls_are_no_paths(
    arguments: tuple[str, ...],
    demo_slide: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    error = in_process(capsys, *(demo_slide if each == "SLIDE" else each for each in arguments), code=2).error()
    assert "URLs are not supported" in error
    assert not list(tmp_path.iterdir())


def config(folder: Path, text: str) -> Path:
    path = folder / "lab.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tille]\n", ("tille", "'tile'|tile")),
        ("[tile]\ntile-sise = 3\n", ("[tile]", "tile-sise", "tile-size")),
        ("[tile]\nslides = 'a'\n", ("[tile]", "slides")),
        ("[tile]\ntile-size = 'big'\n", ("[tile]", "tile-size", "integer")),
        ("[tile]\ntile-size = 2.5\n", ("[tile]", "tile-size", "integer")),
        ("[tile]\ntile-size = true\n", ("[tile]", "tile-size", "integer")),
        ("[tile]\noverwrite = 1\n", ("[tile]", "overwrite", "true or false")),
        ("[tile]\ncodec = 'gif'\n", ("[tile]", "codec", "zstd")),
        ("[tile]\noutput = 3\n", ("[tile]", "output", "path")),
        ("[export]\nof = 'attention'\n", ("[export]", "of", "list")),
        ("[models.build]\ndata-folder = 'x'\n", ("[models]", "[build]", "data-folder")),
        ("[models]\nshow = 1\n", ("show", "table")),
        ("tile = 3\n", ("tile", "table")),
        ("tile-size = 3\n", ("tile-size",)),
        ("[tile\n", ("lab.toml",)),
    ],
)
def test_config_with_an_unknown_key_or_a_wrong_value(
    text: str, said: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, text)
    error = in_process(capsys, "--config", path, "models", "list", code=2).error()
    assert str(path) in error
    for part in said:
        assert any(either in error for either in part.split("|")), error


def test_config_names_options_and_their_aliases(
    demo_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[tile]\npatch-size = 512\nmin_tissue = 0\nscores = 'none'\n[heatmap]\nas = 'value'\n[view]\nopen = false\n"
    arguments = ("--config", config(tmp_path, text), "tile", demo_slide, "-o", tmp_path, "--json")
    (record,) = in_process(capsys, *arguments).json()
    assert record["tiles_total"] == 5 * 6


def test_config_outputs_are_no_urls(demo_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path, "[tile]\noutput = 's3://bucket/x'\n")
    assert "URLs are not supported" in in_process(capsys, "--config", path, "tile", demo_slide, code=2).error()


def test_completion_loads_nothing_heavy() -> None:
    code = (
        "import os, sys\n"
        "os.environ.update(_WSI_ATTN_COMPLETE='complete_bash', COMP_CWORD='3')\n"
        "os.environ['COMP_WORDS'] = 'wsi-attn tile --codec pass'\n"
        "from wsi_attn.cli.app import run\nassert run([]) == 0\n"
        "heavy = {'torch', 'numpy', 'numba', 'zarr', 'cv2', 'sklearn', 'openslide'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["passthrough"]


def test_no_command_shows_help() -> None:
    result = wsi_attn(code=2)
    assert "Usage: wsi-attn" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["predict", ""], "an argument"),
        (["tile", "a.svs", "-o", ""], "-o"),
        (["tile", "a.svs", "--output="], "--output"),
        (["predict", "a.svs", "--model", " "], "--model"),
        (["models", "show", ""], "an argument"),
        (["--config", "", "info", "a.svs"], "--config"),
    ],
)
def test_empty_arguments_do_not_mean_the_current_folder(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = in_process(capsys, *arguments, code=2).error()
    assert f"{named} is empty" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "a.svs", "-o"],
        ["tile", "a.svs", "-o"],
        ["tissue", "a.svs", "-o"],
        ["segment", "a.svs", "-m", "m", "-o"],
        ["heatmap", "a", "-o"],
        ["boxes", "a.png", "-o"],
        ["train", "a.csv", "-o"],
        ["evaluate", "fungi", "a.csv", "--report"],
    ],
)
def test_output_folders_are_not_files(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.touch()
    assert "is a file" in in_process(capsys, *arguments, file, code=2).error()
    assert "ends with .csv" in in_process(capsys, *arguments, "result.csv", code=2).error()
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_export_refuses_files_of_another_format(
    demo_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("export", demo_slide, "--to", "png", "-o", tmp_path / "a.jpg")
    assert "end with .png" in in_process(capsys, *arguments, code=2).error()
    assert not any(tmp_path.iterdir())


def test_config_is_no_url(capsys: pytest.CaptureFixture[str]) -> None:
    assert "s3 URLs are not supported" in in_process(capsys, "--config", "s3://b/x", "info", "a", code=2).error()


def test_options_without_effect_and_out_of_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--refer-above" in in_process(capsys, "predict", "a.svs", "--refer-by", "margin", code=2).error()
    arguments = ("train", tmp_path / "a.csv", "-o", tmp_path / "run", "--mpp", "-1")
    assert "--mpp" in in_process(capsys, *arguments, code=2).error()


def test_manifests_separated_by_semicolons_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("path;label\na.svs;x\n")
    assert "not separated by commas" in in_process(capsys, "info", manifest, code=3).error()


def test_folders_with_subfolders_only_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "case").mkdir()
    assert "subfolders are not searched" in in_process(capsys, "info", tmp_path, code=3).error()


def test_system_errors_name_the_file_in_plain_words(
    demo_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "out")

    monkeypatch.setattr("wsi_attn.cli.info.expand", denied)
    error = in_process(capsys, "info", demo_slide, code=3).error()
    assert "out: Permission denied" in error
    assert "Errno" not in error


def test_a_deeply_nested_config_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "deep.toml"
    config.write_text("x = " + "[" * 100_000)
    assert str(config) in in_process(capsys, "--config", config, "doctor", code=2).error()
