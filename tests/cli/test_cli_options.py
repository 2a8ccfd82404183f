"""What the commands have in common: the options of an engine, how a model is named, the panels of ``--help``."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from glomedge.cli import app
from glomedge.cli.options import takes_engine_options
from glomedge.engine.options import EngineOptions
from glomedge.errors import UsageError
from glomedge.runs.options import Options
from glomedge.runs.record import arguments
from helpers.builders import build_tiny_model
from helpers.run_kit import write_crops

ENGINE_COMMANDS = ("infer", "evaluate", "warm", "serve", "bench", "doctor")
MODEL_COMMANDS = (*ENGINE_COMMANDS, "info", "export")
OWN_FORM = {("bench", "provider"), ("bench", "batch_size")}
"""Where a command takes several values: the name is the same, the help text says more."""
WITHOUT = {("doctor", "allow_fallback")}
"""doctor examines each provider by itself."""

ARGUMENTS = [
    "folder", "model", "output", "provider", "allow_fallback", "strict_placement", "batch_size", "max_batch",
    "fixed_batch", "cache_dir", "bf16", "workers", "threshold", "formats", "resume", "overwrite", "follow_symlinks",
    "case_pattern", "exclude_flagged", "review_band", "tta", "heatmaps", "heatmaps_for", "decode_timeout_s",
    "decode_in", "report", "site",
]  # fmt: skip
"""The keys of ``arguments`` in run.json, which machines read."""


def _options_of(command: str) -> Mapping[str, Any]:
    """The command-line options of a command by parameter name."""
    group: Any = typer.main.get_command(app)
    return {option.name: option for option in group.commands[command].params if option.param_type_name == "option"}


@pytest.mark.parametrize("command", ENGINE_COMMANDS)
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(EngineOptions)])
def test_every_engine_option_has_one_name_one_help_and_one_panel(command: str, field: str) -> None:
    found = _options_of(command)
    if (command, field) in WITHOUT:
        assert field not in found
        return
    option, model = found[field], _options_of("infer")[field]
    assert option.opts == model.opts
    assert option.rich_help_panel == "Engine"
    if (command, field) in OWN_FORM:
        assert option.help.startswith(model.help.split(" Default")[0].rstrip("."))
    else:
        assert option.help == model.help
        assert option.default == model.default == getattr(EngineOptions, field)


@pytest.mark.parametrize("command", MODEL_COMMANDS)
def test_every_command_that_takes_a_model_takes_it_by_m_and_model(command: str) -> None:
    assert set(_options_of(command)["model"].opts) == {"--model", "-m"}


def test_help_is_in_panels() -> None:
    shown = CliRunner().invoke(app, ["infer", "--help"], env={"COLUMNS": "160"}).output
    panels = ("Model", "Engine", "Results", "Decoding", "Biopsies", "Continuing a run")
    places = [shown.index(f"─ {panel} ─") for panel in panels]
    assert places == sorted(places)
    assert "Per-file decode timeout, in seconds." in shown


def test_the_options_reach_the_command_in_one_piece() -> None:
    seen: list[tuple[EngineOptions, str, bool]] = []
    small = typer.Typer()

    @small.command()
    @takes_engine_options("strict_placement")
    def command(name: str, *, engine: EngineOptions, loud: bool = False) -> None:
        seen.append((engine, name, loud))

    given = ["-p", "cuda", "--batch-size", "4", "--max-batch", "8", "--allow-fallback", "--cache-dir", "c", "--bf16"]
    assert CliRunner().invoke(small, ["x", *given, "--loud"]).exit_code == 0
    expected = EngineOptions("cuda", allow_fallback=True, batch_size=4, max_batch=8, cache_dir=Path("c"), bf16=True)
    assert seen == [(expected, "x", True)]
    assert CliRunner().invoke(small, ["x"]).exit_code == 0
    assert seen[1] == (EngineOptions(), "x", False)
    assert CliRunner().invoke(small, ["x", "--strict-placement"]).exit_code == 2  # left out of this command


@pytest.mark.parametrize("command", ENGINE_COMMANDS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--max-batch", "0"], "--max-batch must be 1 to 1024, not 0"),
        (["--max-batch", "1025"], "--max-batch must be 1 to 1024, not 1025"),
    ],
)
def test_sizes_out_of_range_are_refused_alike(command: str, given: list[str], message: str) -> None:
    folder = ["nowhere"] if command in ("infer", "evaluate") else []
    refused = CliRunner().invoke(app, [command, *folder, *given])
    assert isinstance(refused.exception, UsageError)
    assert message in str(refused.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions(batch_size=0), "--batch-size must be 1 to 1024, not 0"),
        (EngineOptions(batch_size=8, max_batch=4), "--batch-size 8 is more than --max-batch 4"),
        (EngineOptions(batch_size=4, max_batch=8, fixed_batch=True), "--fixed-batch runs one batch size"),
    ],
)
def test_what_no_provider_could_carry_out(options: EngineOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options.check()
    dataclasses.replace(options, batch_size=4, max_batch=4).check()


@pytest.mark.parametrize("command", [["info", "--json"], ["warm", "--provider", "cpu", "--json"]])
def test_a_model_by_argument_by_option_or_by_both_alike(command: list[str], tiny_model: Path) -> None:
    path = str(tiny_model)
    for given in ([path], ["-m", path], ["--model", path], [path, "-m", path]):
        done = CliRunner().invoke(app, [*command, *given])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)


@pytest.mark.parametrize("command", ["info", "warm", "export"])
def test_two_models_are_refused(command: str) -> None:
    refused = CliRunner().invoke(app, [command, "a.onnx", "--model", "b.onnx"])
    assert isinstance(refused.exception, UsageError)
    assert str(refused.exception) == "Two models were given: a.onnx and --model b.onnx. Give only one."


def test_run_json_keeps_its_flat_arguments(tmp_path: Path) -> None:
    write_crops(tmp_path / "crops", 3, broken=0)
    build_tiny_model(tmp_path / "model.onnx")
    asked = ["--provider", "cpu", "--batch-size", "2", "--max-batch", "8", "--cache-dir", str(tmp_path / "cache")]
    paths = [str(tmp_path / "crops"), "-m", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["infer", *paths, *asked, "--allow-fallback", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["arguments"]
    assert list(found) == ARGUMENTS
    assert (found["provider"], found["batch_size"], found["max_batch"]) == ("cpu", 2, 8)
    assert (found["allow_fallback"], found["fixed_batch"], found["bf16"]) == (True, False, False)
    assert found["cache_dir"] == str(tmp_path / "cache")


def test_arguments_are_json_values() -> None:
    found = arguments(Options(Path("crops"), engine=EngineOptions(cache_dir=Path("cache"))))
    assert json.loads(json.dumps(found)) == found
    assert list(found) == ARGUMENTS


def test_no_default_in_a_help_text_is_taken_for_markup() -> None:
    """Rich reads ``[default: x]`` inside a help text as a style, and shows nothing."""
    shown = " ".join(re.sub("[│╭╮╰╯─]", " ", CliRunner().invoke(app, ["export", "--help"]).output).split())
    for default in ("next to the model", "1,8,32", "found in the names"):
        assert f"(default: {default})" in shown
