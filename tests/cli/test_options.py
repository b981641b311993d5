"""Options are made from fields: no default is written twice, and the command line, TOML and Python agree."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.runner import in_process
from wsi_attn import cli
from wsi_attn.cli.app import app
from wsi_attn.cli.command import Command
from wsi_attn.cli.parameters import Only
from wsi_attn.cli.train import TrainCommand
from wsi_attn.errors import ExitCode, UnknownNameError, UsageError
from wsi_attn.export.config import ExportConfig, HeatmapConfig
from wsi_attn.models.configs import CONFIGS, config_of
from wsi_attn.options import OptionField, option_fields
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.config import EvaluateConfig, Resources, TrainConfig
from wsi_attn.tasks.segmentation.config import SegmentConfig
from wsi_attn.tiling.config import TileConfig
from wsi_attn.tissue.settings import TissueSettings

SETTINGS = (
    TileConfig,
    TrainConfig,
    Resources,
    PredictConfig,
    SegmentConfig,
    EvaluateConfig,
    ExportConfig,
    *(HeatmapConfig, TissueSettings),
)
SYSTEMS = tuple(config_of(system) for system in CONFIGS.built_in)
SOURCES = sorted(Path(inspect.getfile(cli)).parent.glob("*.py"))
MOST_PARAMETERS = 8


def commands() -> dict[str, Command]:
    found = {}
    for name, command in app.commands.items():
        members = getattr(command, "commands", None)
        found.update({name: command} if members is None else {f"{name} {each}": members[each] for each in members})
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_option_is_a_field_and_has_its_default(name: str) -> None:
    made = commands()[name].made()
    for parameter in made.params:
        if parameter.param_type_name == "option":
            assert parameter.name in made.fields
            assert parameter.default is None  # What is not given is left to the field.
        assert not parameter.required or parameter.default is None


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_no_function_of_the_command_line_has_a_default_or_many_parameters(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        if not isinstance(node, ast.FunctionDef):
            continue
        names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        assert len(names) <= MOST_PARAMETERS, node.name
        options = {name for command in commands().values() for name in command.made().fields}
        given = dict(zip(names[::-1], node.args.defaults[::-1], strict=False))
        given.update(
            {arg.arg: value for arg, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if value}
        )
        literal = {name for name, value in given.items() if isinstance(value, ast.Constant) and value.value is not None}
        assert not literal & options or node.name == "_root", (node.name, literal & options)


def test_options_are_declared_only_by_fields() -> None:
    """`typer.Option` is called by the maker of parameters, and for the options of the program itself."""
    calling = [source.name for source in SOURCES if "typer.Option(" in source.read_text()]
    assert calling == ["app.py", "parameters.py"]


@pytest.mark.parametrize("name", sorted(commands()))
def test_no_option_of_a_command_has_two_fields(name: str) -> None:
    found: list[str] = []
    for hint in inspect.get_annotations(commands()[name].function, eval_str=True).values():
        config, metadata = getattr(hint, "__origin__", hint), getattr(hint, "__metadata__", ())
        if is_dataclass(config):
            only = next((part.fields for part in metadata if isinstance(part, Only)), tuple(option_fields(config)))
            found += only
    assert len(found) == len(set(found))


def recorded(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> dict[str, Any]:
    """What the function of a command is called with."""
    seen: dict[str, Any] = {}
    command = TrainCommand() if name == "train" else Command(name, app.commands[name].function)

    @functools.wraps(command.function)
    def record(**values: Any) -> None:
        seen.update(values)

    command.function = record
    monkeypatch.setitem(app.commands, name, command)
    assert _run(*arguments) == ExitCode.DONE
    return seen


def _run(*arguments: object) -> int:
    from wsi_attn.cli.app import run

    return run([str(each) for each in arguments])


def toml(folder: Path, text: str) -> Path:
    path = folder / "lab.toml"
    path.write_text(text)
    return path


CASES: dict[str, tuple[tuple[str, ...], str, dict[str, object]]] = {
    "tile": (
        ("--patch-size", "512", "--overlap", "4", "--mpp", "0.5", "--codec", "zstd", "--scores", "none"),
        "patch-size = 512\noverlap = 4\nmpp = 0.5\ncodec = 'zstd'\nscores = 'none'\n",
        {"config": TileConfig(tile_size=512, overlap=4, mpp=0.5, codec="zstd", scores="none")},
    ),
    "predict": (
        ("--mc-dropout", "4", "--refer-above", "0.5", "--refer-by", "mutual_information", "--exhaustive"),
        "mc-dropout = 4\nrefer-above = 0.5\nrefer-by = 'mutual_information'\nexhaustive = true\n",
        {"config": PredictConfig(mc_dropout=4, refer_above=0.5, refer_by="mutual_information", exhaustive=True)},
    ),
    "segment": (
        ("-m", "M", "-o", "out", "--tile", "64", "--as-annotations"),
        "model = 'M'\noutput = 'out'\ntile = 64\nas-annotations = true\n",
        {"config": SegmentConfig(tile=64, annotations=True)},
    ),
    "heatmap": (
        ("--as", "value", "--alpha", "0.25", "--colour-map", "magma", "--contact-sheet", "4"),
        "as = 'value'\nopacity = 0.25\ncolours = 'magma'\ncontact-sheet = 4\n",
        {"config": HeatmapConfig(mode="value", alpha=0.25, colour="magma", contact_sheet=4)},
    ),
    "export": (
        ("--to", "html", "-o", "out", "--of", "attention", "--of", "tissue", "--size", "640"),
        "to = 'html'\noutput = 'out'\nof = ['attention', 'tissue']\nsize = 640\n",
        {"config": ExportConfig(of=("attention", "tissue"), size=640)},
    ),
    "train": (
        (
            *("-o", "run", "--model", "global-spatial", "--epochs", "3", "--rare-classes", "a, b", "--map-after"),
            *("input", "--coarse-widths", "8,16", "--map-residual", "--no-flip", "--cache-mb", "64"),
        ),
        "output = 'run'\nmodel = 'global-spatial'\nepochs = 3\nrare-classes = 'a, b'\nmap-after = 'input'\n"
        "coarse-widths = '8,16'\nmap-residual = true\nno-flip = true\ncache-mb = 64\n",
        {
            "config": TrainConfig(system="global-spatial", epochs=3, rare_classes=("a", "b"), no_flip=True),
            "network": {"map_after": 0, "coarse_widths": (8, 16), "residual": True},
            "resources": Resources(cache_mb=64),
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_command_line_toml_and_python_agree(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, text, wanted = CASES[name]
    typed = recorded(monkeypatch, name, name, "a", *options)
    written = recorded(monkeypatch, name, "--config", toml(tmp_path, f"[{name}]\n{text}"), name, "a")
    for key, value in wanted.items():
        assert typed[key] == value
        assert written[key] == value
    assert typed == written


@pytest.mark.parametrize("name", ["tile", "predict", "heatmap"])
def test_without_options_the_configuration_is_the_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recorded(monkeypatch, name, name, "a")["config"]
    assert config == type(config)()


def test_the_command_line_takes_precedence_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toml(tmp_path, "[tile]\noverlap = 4\nquality = 80\n")
    seen = recorded(monkeypatch, "tile", "--config", path, "tile", "a", "--overlap", "0")
    assert seen["config"] == TileConfig(quality=80)


RANGED = [
    pytest.param(config, field, id=f"{config.__name__}.{field.name}")
    for config in (*SETTINGS, *SYSTEMS)
    for field in option_fields(config).values()
    if field.option.range
]


def required(config: type) -> dict[str, int]:
    """A value for each field without a default."""
    return {
        each.name: 2
        for each in fields(config)
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    }


@pytest.mark.parametrize(("config", "field"), RANGED)
def test_a_value_out_of_range_names_option_value_and_range(config: type, field: OptionField) -> None:
    option = field.option
    low = option.at_least if option.at_least is not None else option.above
    high = option.at_most if option.at_most is not None else option.below
    needed = required(config)
    for value in (*([low - 1] if low is not None else []), *([high + 1] if high is not None else [])):
        with pytest.raises(UsageError) as caught:
            config(**needed, **{field.name: field.kind(value)})
        assert str(caught.value).startswith(f"{field.flag} {field.kind(value)}: must be ")
        assert option.range in str(caught.value)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        pytest.param(config, name, id=f"{config.__name__}.{name}")
        for config in (*SETTINGS, *SYSTEMS)
        for name, field in option_fields(config).items()
        if field.option.choices
    ],
)
def test_an_unknown_choice_lists_the_choices(config: type, name: str) -> None:
    needed = required(config)
    field = option_fields(config)[name]
    with pytest.raises(
        UnknownNameError, match=f"^{field.flag} nothing: must be one of {field.option.choices[0]}"
    ) as caught:
        config(**needed, **{name: "nothing"})
    assert set(caught.value.known) == set(field.option.choices)


@pytest.mark.parametrize("system", CONFIGS.built_in)
def test_options_of_a_system_have_names_of_their_own(system: str) -> None:
    assert not option_fields(config_of(system)).keys() & option_fields(TrainConfig).keys()


@pytest.mark.parametrize("system", CONFIGS.built_in)
def test_options_appear_only_with_their_system(system: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = {field.flag for field in option_fields(config_of(system)).values()}
    common = in_process(capsys, "train", "--help").stdout
    text = in_process(capsys, "train", "--model", system, "--help").stdout
    for flag in own:
        assert flag in text.split()
        assert flag not in common.split()
    assert "--seed" in text
    assert ("--epochs" in text) == (system != "probe")  # which is fitted at once
    assert "--model NAME --help" in " ".join(common.split())
    others = {field.flag for other in CONFIGS.built_in for field in option_fields(config_of(other)).values()} - own
    assert not others & set(text.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--model", "cnn", "--fusion", "cross"),
            "--model cnn has no option --fusion, which belongs to --model dual-cross",
        ),
        (("--crop", "64"), "--model deep-attention has no option --crop, which belongs to --model joint-"),
        (
            ("--model", "dual-cross", "--classes", "a,b"),
            "no option --classes, which belongs to --model joint-",
        ),
        (("--model", "joint-segmentation", "--loss", "focal"), "--model joint-segmentation has no option --loss"),
        (("--model", "cnn", "--epochs", "0"), "--epochs 0: must be at least 1"),
        (("--model", "dual-cross", "--fusion", "cros"), "--fusion cros: must be one of cross, concat, first, second"),
        (
            (
                "--model",
                "duel-cross",
            ),
            "did you mean dual-cross?",
        ),
    ],
)
def test_refused_options_of_train(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in in_process(capsys, "train", "m.csv", "-o", tmp_path / "run", *arguments, code=2).error()


def test_options_of_another_system_are_refused_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = toml(tmp_path, "[train]\nmodel = 'dual-cross'\nfusion = 'concat'\n")
    command = ("--config", path, "train", "m.csv", "-o", tmp_path / "run", "--model", "cnn")
    assert "no option --fusion, which belongs to --model dual-cross" in in_process(capsys, *command, code=2).error()


def test_the_light_configurations_are_those_of_the_networks() -> None:
    from wsi_attn.models.systems import SYSTEMS as NETWORKS

    for system in CONFIGS.built_in:
        network = NETWORKS.get(system)
        assert network.config_class is config_of(system)
        assert network.task == getattr(config_of(system), "task", "classification")
    from wsi_attn.models.configs import joint_segmentation
    from wsi_attn.nn import dense_unet, unet

    assert joint_segmentation.STRIDE == unet.STRIDE
    assert tuple(dense_unet.LAYOUTS) == joint_segmentation.LAYOUTS


def test_choices_are_what_is_implemented() -> None:
    from wsi_attn.nn.joint_attention import ATTENTIONS
    from wsi_attn.tissue.detect import METHODS

    def choices(config: type, name: str) -> set[str]:
        return set(option_fields(config)[name].option.choices)

    assert choices(config_of("joint-segmentation"), "attention") == set(ATTENTIONS)
    assert choices(TissueSettings, "method") == set(METHODS.names())


def test_a_system_of_the_running_program_has_its_task_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    from wsi_attn.models.configs import SEGMENTATION, task_of
    from wsi_attn.models.systems import SYSTEMS as NETWORKS

    network = NETWORKS.get("joint-segmentation")
    monkeypatch.setitem(NETWORKS._members, "mine", network)
    assert config_of("mine") is network.config_class
    assert task_of("mine") == SEGMENTATION
    with pytest.raises(UnknownNameError):
        task_of("nobodys")
