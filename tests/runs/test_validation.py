"""The acceptance report: figures, verdict, wrong crops, hashes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from glomedge.cases.acceptance import Requirement
from glomedge.cli import app
from glomedge.engine.options import EngineOptions
from glomedge.errors import DatasetError, OutputError, UsageError
from glomedge.files.writing import sha256_of
from glomedge.model.file import read_model_file
from glomedge.reports.validation_plots import bland_altman, limits_of_agreement, reliability
from glomedge.runs import evaluate as evaluate_run
from glomedge.runs import validation as validation_run
from glomedge.runs.evaluate import evaluate_folder
from glomedge.runs.options import EvaluateOptions
from glomedge.runs.validation import Validation, write_validation
from helpers.builders import build_tiny_model, build_tiny_other
from helpers.page_checks import check_page, text_of
from helpers.sites import write_site


@pytest.fixture
def options(tmp_path: Path) -> EvaluateOptions:
    write_site(tmp_path / "crops", noise=2.0)
    build_tiny_model(tmp_path / "model.onnx", recipe="plain", bias=-1.0)
    return EvaluateOptions(tmp_path / "crops", tmp_path / "model.onnx", EngineOptions(provider="cpu"))


def validated(options: EvaluateOptions, *requirements: Requirement) -> Validation:
    found = evaluate_folder(options)
    assert found is not None
    return Validation(found, read_model_file(options.model).spec, requirements)


def test_the_figures_are_those_of_the_crops(options: EvaluateOptions) -> None:
    validation = validated(options)
    details = validation.found.details
    right = [(crop.probability >= 0.5) == (crop.label == 1) for crop in details]
    accuracy = validation.figures["accuracy"]
    assert accuracy.value == pytest.approx(np.mean(right)) == validation.found.confusion.accuracy.value
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert accuracy.low <= accuracy.value <= accuracy.high
    assert validation.figures["auroc"].value == pytest.approx(validation.found.auroc)
    assert validation.figures["percent_gs_mae"].value == pytest.approx(validation.found.mean_case_error())


def test_the_report_holds_what_a_lab_files(options: EvaluateOptions, tmp_path: Path) -> None:
    validation = validated(options, Requirement("auroc", 0.5), Requirement("specificity", 1.0))
    path = tmp_path / "validation.html"
    write_validation(path, options, validation)
    page = path.read_text("utf-8")
    check_page(page)
    words = " ".join(text_of(page.replace("><", "> <")).split())
    assert "Not all requirements are met." in words
    assert "AUROC at least 0.5" in words
    wrong = [
        crop.found.key for crop in validation.found.details if (crop.probability >= 0.5) != (crop.label == 1)
    ]  # fmt: skip
    assert wrong
    assert f"{len(wrong)} of 60 crops are called wrongly" in words
    assert all(name in words for name in wrong)
    assert page.count("data:image/jpeg;base64,") == len(wrong)
    for digest in (sha256_of(options.data / "public.csv"), validation.found.model_sha256):
        assert digest in words
    for case in validation.found.cases:
        assert f"{case.case} {case.crops} {case.percent_gs_labels:.1f} {case.percent_gs_calls:.1f}" in words


def test_a_network_without_a_map_and_a_model_that_meets_all(options: EvaluateOptions, tmp_path: Path) -> None:
    build_tiny_other(tmp_path / "other.onnx", 96, 3, recipe="plain", with_map=False)
    asked = replace(options, model=tmp_path / "other.onnx")
    validation = validated(asked, Requirement("specificity", 0.5))
    write_validation(tmp_path / "validation.html", asked, validation)
    assert "All requirements are met." in (tmp_path / "validation.html").read_text("utf-8")


def test_a_place_that_cannot_be_written_is_an_error(options: EvaluateOptions, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--report"):
        write_validation(tmp_path / "absent" / "validation.html", options, validated(options))


@pytest.mark.parametrize("target", ["model.onnx", "crops/public.csv", "split.csv", "crops", "link.html"])
def test_a_report_that_would_replace_what_is_read_is_refused_before_any_work(
    options: EvaluateOptions, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(path.name for path in options.data.glob("*.png"))
    (tmp_path / "split.csv").write_text("name,split\n" + "".join(f"{name},test\n" for name in names))
    (tmp_path / "link.html").symlink_to(options.model)
    before = {path: path.read_bytes() for path in (options.model, options.data / "public.csv", tmp_path / "split.csv")}
    monkeypatch.setattr(evaluate_run, "evaluate_folder", _never)
    asked = ["evaluate", str(options.data), "-m", str(options.model), "-p", "cpu"]
    asked += ["--split-file", str(tmp_path / "split.csv"), "--split", "test", "--report", str(tmp_path / target)]
    result = CliRunner().invoke(app, asked)
    assert isinstance(result.exception, UsageError)
    assert "--report" in str(result.exception)
    assert {path: path.read_bytes() for path in before} == before


def _never(*_: Any, **__: Any) -> None:
    raise AssertionError("crops were scored")


def test_a_report_that_cannot_be_written_is_said_before_any_work(
    options: EvaluateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(evaluate_run, "evaluate_folder", _never)
    report = tmp_path / "file" / "validation.html"
    asked = ["evaluate", str(options.data), "-m", str(options.model), "-p", "cpu", "--report", str(report)]
    result = CliRunner().invoke(app, asked)
    assert isinstance(result.exception, OutputError)
    assert "--report" in str(result.exception)


def test_the_figures_are_printed_even_if_the_report_then_fails(
    options: EvaluateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OutputError("no space left")

    monkeypatch.setattr(validation_run, "write_validation", full)
    asked = ["evaluate", str(options.data), "-m", str(options.model), "-p", "cpu"]
    result = CliRunner().invoke(app, [*asked, "--report", str(tmp_path / "validation.html")])
    assert isinstance(result.exception, OutputError)
    assert "sensitivity" in result.output


def test_crops_and_labels_that_change_after_the_figures(options: EvaluateOptions, tmp_path: Path) -> None:
    validation = validated(options)
    labels = options.data / "public.csv"
    digest = sha256_of(labels)
    labels.unlink()  # the report says what was read
    write_validation(tmp_path / "validation.html", options, validation)
    assert digest in (tmp_path / "validation.html").read_text("utf-8")
    for path in options.data.glob("*.png"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"S-10\S+\.png was classified but cannot be read again"):
        write_validation(tmp_path / "validation.html", options, validation)


@pytest.mark.parametrize(
    ("require", "code", "verdict"), [("auroc=0.8", 0, "met"), ("auroc=0.8,specificity=1", 1, "MISSED")]
)
def test_the_command_exits_with_1_where_a_figure_is_missed(
    options: EvaluateOptions, tmp_path: Path, require: str, code: int, verdict: str
) -> None:
    asked = ["evaluate", str(options.data), "-m", str(options.model), "-p", "cpu", "--require", require]
    result = CliRunner().invoke(app, [*asked, "--report", str(tmp_path / "validation.html")])
    assert result.exit_code == code, result.output
    assert re.search(rf"required +\w+ >= [0-9.]+: {verdict}", result.output)
    assert (tmp_path / "validation.html").is_file()
    document = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    assert document["passed"] is (code == 0)
    assert document["figures"]["auroc"]["value"] == pytest.approx(document["auroc"])


def test_reliability_has_a_dot_for_each_bin_that_has_crops() -> None:
    svg = reliability(np.array([0, 1, 1, 1]), np.array([0.05, 0.06, 0.75, 1.0]))
    assert svg.count("<circle") == 3
    assert "<title>1 of 2</title>" in svg
    assert "NaN" not in svg


def test_limits_of_agreement_are_blands_and_altmans() -> None:
    mean, spread = limits_of_agreement(np.array([2.0, -4.0, 5.0]))
    assert mean == pytest.approx(1.0)
    assert spread == pytest.approx(1.96 * np.sqrt(((1.0) ** 2 + 5.0**2 + 4.0**2) / 2))
    assert limits_of_agreement(np.array([3.0])) == (3.0, 0.0)
    svg = bland_altman([("<b>", 10.0, 12.0), ("c", 50.0, 46.0)])
    assert svg.count("<circle") == 2
    assert "<title>&lt;b&gt;: +2.0</title>" in svg
