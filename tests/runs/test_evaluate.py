from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from glomedge.cases.labels import read_labels, read_split
from glomedge.cli import app
from glomedge.engine import providers
from glomedge.engine.options import EngineOptions
from glomedge.engine.runner import SessionRequest
from glomedge.errors import DatasetError, ProviderUnavailableError, UsageError
from glomedge.model.file import ModelFile
from glomedge.pipeline.settings import Settings
from glomedge.runs.evaluate import evaluate_folder
from glomedge.runs.folder import Options, infer_folder
from glomedge.runs.options import EvaluateOptions
from glomedge.runs.pipeline_run import PipelineRun
from glomedge.system.telemetry import import_onnxruntime
from helpers.builders import build_tiny_model
from helpers.run_kit import write_crops

ort = import_onnxruntime()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    names = write_crops(folder, 24, broken=1)
    lines = [f"{Path(name).name},{index % 2}" for index, name in enumerate(names)]
    (folder / "public.csv").write_text("name,ground truth\n" + "\n".join(lines) + "\n", "utf-8")
    sides = [f"{Path(name).name},{'test' if index % 3 == 0 else 'train'}" for index, name in enumerate(names)]
    (tmp_path / "split.csv").write_text("name,split\n" + "\n".join(sides) + "\n", "utf-8")
    build_tiny_model(tmp_path / "model.onnx")
    return folder


def test_evaluate_agrees_with_infer(data: Path) -> None:
    import csv

    model = data.parent / "model.onnx"
    found = evaluate_folder(EvaluateOptions(data, model, EngineOptions("cpu")))
    assert found is not None
    infer_folder(Options(data, model, data.parent / "out", engine=EngineOptions("cpu")))
    with (data.parent / "out" / "predictions.csv").open(encoding="utf-8", newline="") as handle:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(handle)}
    labels = read_labels(data / "public.csv")
    pairs = [(labels[name], int(row["label"])) for name, row in rows.items() if row["label"]]
    assert found.answered == len(pairs) == 23
    assert list(found.errors.values()) == ["truncated"]
    assert found.confusion.true_positive == pairs.count((1, 1))
    assert found.confusion.false_negative == pairs.count((1, 0))
    assert found.confusion.true_negative == pairs.count((0, 0))
    assert found.confusion.false_positive == pairs.count((0, 1))
    assert sum(case.crops for case in found.cases) == 23


@pytest.mark.parametrize(("gpu", "callers"), [(True, 2), (False, 8)])
def test_evaluate_and_infer_call_the_model_from_as_many_threads(
    monkeypatch: pytest.MonkeyPatch, data: Path, gpu: bool, callers: int
) -> None:
    """On a GPU two: with eight, six would wait with a batch of crops each."""
    asked: list[int] = []

    def options(request: SessionRequest) -> Mapping[str, str]:
        asked.append(request.concurrency)
        return {}

    entry = providers.onnxruntime_provider("card", "CPUExecutionProvider", options, install="", gpu=gpu)
    monkeypatch.setitem(providers.PROVIDERS, "card", entry)
    monkeypatch.setattr("glomedge.system.cpu.usable_cpus", lambda: 12)
    model = data.parent / "model.onnx"
    evaluate_folder(EvaluateOptions(data, model, EngineOptions("card"), workers=2))
    infer_folder(Options(data, model, data.parent / "out", workers=2, engine=EngineOptions("card")))
    assert asked == [callers, callers]


@pytest.mark.parametrize(("gpu", "where"), [(True, "processes"), (False, "threads")])
def test_evaluate_decodes_on_every_core_and_in_processes_beside_a_gpu(
    monkeypatch: pytest.MonkeyPatch, data: Path, gpu: bool, where: str
) -> None:
    seen: list[Settings] = []

    class Seen(PipelineRun):
        def __init__(self, file: ModelFile, engine: EngineOptions, settings: Settings, **more: Any) -> None:
            seen.append(settings)
            super().__init__(file, engine, settings, **more)

    entry = providers.onnxruntime_provider("card", "CPUExecutionProvider", install="", gpu=gpu)
    monkeypatch.setitem(providers.PROVIDERS, "card", entry)
    monkeypatch.setattr("glomedge.system.cpu.usable_cpus", lambda: 3)
    monkeypatch.setattr("glomedge.imaging.decoders.fast_png_decoder", lambda: lambda *_: None)
    monkeypatch.setattr("glomedge.runs.scores.PipelineRun", Seen)
    found = evaluate_folder(EvaluateOptions(data, data.parent / "model.onnx", EngineOptions("card")))
    assert found is not None
    assert (seen[0].decode_workers, "processes" if seen[0].decode_processes else "threads") == (3, where)
    assert found.answered == 23


def test_evaluate_takes_every_engine_option_that_infer_takes(
    monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path
) -> None:
    """Both ask for the same session, option by option."""
    asked: list[SessionRequest] = []

    def options(request: SessionRequest) -> Mapping[str, str]:
        asked.append(request)
        return {}

    entry = providers.onnxruntime_provider("card", "CPUExecutionProvider", options, install="")
    monkeypatch.setitem(providers.PROVIDERS, "card", entry)
    model = ["--model", str(data.parent / "model.onnx"), "--provider", "card"]
    for given in (
        [],
        ["--batch-size", "3"],
        ["--max-batch", "2"],
        ["--batch-size", "5", "--max-batch", "9"],
        ["--fixed-batch", "--max-batch", "6"],
        ["--cache-dir", str(tmp_path / "cache")],
        ["--strict-placement"],
        ["--allow-fallback"],
    ):
        asked.clear()
        evaluated = CliRunner().invoke(app, ["evaluate", str(data), *model, *given])
        inferred = CliRunner().invoke(app, ["infer", str(data), *model, "-o", str(tmp_path / "out"), *given])
        assert (evaluated.exit_code, inferred.exit_code) == (2, 2), (given, evaluated.output, inferred.output)
        first, second = asked
        assert first == second, given
    assert asked[0].record_placement is False


@pytest.mark.parametrize("command", ["evaluate", "warm"])
def test_bfloat16_that_would_not_be_is_refused_as_in_infer(data: Path, command: str) -> None:
    where = [str(data)] if command == "evaluate" else []
    arguments = [command, *where, "-m", str(data.parent / "model.onnx"), "--provider", "cpu", "--bf16"]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, UsageError)
    assert "--bf16: cpu computes this model in fp32" in str(refused.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": EngineOptions(batch_size=0)}, "--batch-size must be 1 to 1024, not 0"),
        ({"engine": EngineOptions(batch_size=8, max_batch=4)}, "--batch-size 8 is more than --max-batch 4"),
        ({"workers": 0}, "--workers must be 1 to 512, not 0"),
        ({"case_pattern": "("}, "--case-pattern"),
    ],
)
def test_options_are_checked_before_any_file_is_opened(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate_folder(EvaluateOptions(Path("nowhere"), Path("nowhere.onnx"), **options))


def test_a_split_restricts_the_crops(data: Path) -> None:
    model = data.parent / "model.onnx"
    options = EvaluateOptions(data, model, EngineOptions("cpu"), split_file=data.parent / "split.csv")
    test = evaluate_folder(replace(options, split="test"))
    train = evaluate_folder(replace(options, split="train"))
    assert test is not None
    assert train is not None
    assert (test.crops, train.crops) == (8, 16)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name,label\na.png,1\n", "no column 'ground truth'; it has name, label"),
        ("name,ground truth\na.png,2\nb.png,x\n", "line 2.*line 3"),
        ("name,ground truth\na.png,1\na.png,0\n", "line 3: 'a.png' is listed twice .first in line 2."),
        ("name,ground truth\n", "contains no label"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "public.csv").write_text(text, "utf-8")
    with pytest.raises(DatasetError, match=problem):
        read_labels(tmp_path / "public.csv")


def test_missing_and_doubled_files_are_all_listed(data: Path) -> None:
    with (data / "public.csv").open("a") as handle:
        handle.write("gone-1.png,0\ngone-2.png,1\n")
    (data / "b" / "case1-10.png").write_bytes((data / "a" / "case1-10.png").read_bytes())
    with pytest.raises(
        DatasetError, match=r"2 labelled crops have no file: gone-1.png, gone-2.png; 1 labelled.*case1-10"
    ):
        evaluate_folder(EvaluateOptions(data, data.parent / "model.onnx"))


def test_bad_options_are_refused(data: Path) -> None:
    with pytest.raises(UsageError, match="must be given together"):
        evaluate_folder(EvaluateOptions(data, data.parent / "model.onnx", split="test"))
    with pytest.raises(UsageError, match="threshold"):
        evaluate_folder(EvaluateOptions(data, data.parent / "model.onnx", threshold=1.5))
    with pytest.raises(DatasetError, match="no split 'dev'; it has: test, train"):
        read_split(data.parent / "split.csv", "dev")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_labels(data / "none.csv")


def test_command_prints_figures_and_json(data: Path) -> None:
    arguments = ["evaluate", str(data), "--model", str(data.parent / "model.onnx"), "--provider", "cpu"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 2, shown.output
    for word in ("accuracy", "sensitivity", "specificity", "AUROC", "AUPRC", "%GS per case", "Research use only"):
        assert word in shown.output
    record = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert record["answered"] == 23
    assert record["notice"].startswith("Research use only")
    assert set(record["sensitivity"]) == {"value", "low", "high", "k", "n"}


def test_real_crops(real_data: Path, tmp_path: Path) -> None:
    build_tiny_model(tmp_path / "model.onnx")
    outcome = infer_folder(Options(real_data, tmp_path / "model.onnx", tmp_path / "out", engine=EngineOptions("cpu")))
    assert len(outcome.cases) == 21
    assert sum(case.crops for case in outcome.cases) == 830
    assert outcome.counts["error"] == 0


@pytest.mark.skipif(
    "AzureExecutionProvider" not in ort.get_available_providers(), reason="this wheel has no Azure provider"
)
def test_strict_placement_is_held_to(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure's provider opens anywhere and takes no ordinary node."""
    entry = providers.onnxruntime_provider("azure", "AzureExecutionProvider", install="")
    monkeypatch.setitem(providers.PROVIDERS, "azure", entry)
    arguments = ["evaluate", str(data), "--model", str(data.parent / "model.onnx"), "--provider", "azure"]
    assert CliRunner().invoke(app, arguments).exit_code == 2  # one crop of the folder is torn
    refused = CliRunner().invoke(app, [*arguments, "--strict-placement"])
    assert isinstance(refused.exception, ProviderUnavailableError)
    assert "nodes would not run on azure" in str(refused.exception)


def _class_folders(data: Path, folders: dict[int, str]) -> None:
    """Move every labelled crop into the class folder of its label, below a folder for its slide."""
    for name, label in read_labels(data / "public.csv").items():
        (path,) = data.rglob(name)
        target = data / folders[label] / name.partition("-")[0]
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / name)


GS, NGS = "globally_sclerotic_glomeruli", "non_globally_sclerotic_glomeruli"


def test_labels_that_contradict_the_class_folders_are_refused(data: Path) -> None:
    model = data.parent / "model.onnx"
    _class_folders(data, {0: NGS, 1: GS})
    found = evaluate_folder(EvaluateOptions(data, model, engine=EngineOptions("cpu")))
    assert found is not None
    assert found.crops == 24
    table = data / "public.csv"
    table.write_text(table.read_text("utf-8").replace("case0-0.png,0", "case0-0.png,1"), "utf-8")
    with pytest.raises(DatasetError, match=rf"1 label.* contradict.*case0-0\.png: labelled 1, but is in {NGS}"):
        evaluate_folder(EvaluateOptions(data, model, engine=EngineOptions("cpu")))
    swapped = [f"{line[:-1]}{1 - int(line[-1])}" for line in table.read_text("utf-8").splitlines()[1:]]
    table.write_text("name,ground truth\n" + "\n".join(swapped) + "\n", "utf-8")
    with pytest.raises(DatasetError, match=r"and 3 more\. Correct the folder") as caught:
        evaluate_folder(EvaluateOptions(data, model, engine=EngineOptions("cpu")))
    assert len(str(caught.value)) <= 2000


def test_a_table_from_a_spreadsheet_is_read_and_said(data: Path) -> None:
    table = data / "public.csv"
    plain = evaluate_folder(EvaluateOptions(data, data.parent / "model.onnx", engine=EngineOptions("cpu")))
    rows = table.read_text("utf-8").replace("ground truth", "Ground_Truth").replace(".png", "").replace(",", "\t")
    table.write_bytes((rows.replace("\n", "\r\n") + "\t\r\n").encode("utf-16"))
    found = evaluate_folder(EvaluateOptions(data, data.parent / "model.onnx", engine=EngineOptions("cpu")))
    assert found is not None
    assert plain is not None
    assert found.confusion == plain.confusion
    assert "public.csv was read as UTF-16, tab-separated." in found.notes
    assert "24 names in public.csv were found without their suffix." in found.notes
    assert any(note.startswith("How the 3 biopsies were found: 24 crops: by name") for note in found.notes)


def test_two_columns_of_labels_are_refused(data: Path) -> None:
    table = data / "public.csv"
    rows = [f"{line},{1 - int(line[-1])}" for line in table.read_text("utf-8").splitlines()[1:]]
    table.write_text("name,ground truth,Ground truth\n" + "\n".join(rows) + "\n", "utf-8")
    with pytest.raises(DatasetError, match="columns 2 and 3 are both 'ground truth'"):
        evaluate_folder(EvaluateOptions(data, data.parent / "model.onnx", engine=EngineOptions("cpu")))


def test_the_same_picture_under_both_labels_is_listed(data: Path) -> None:
    (first,), (second,) = data.rglob("case1-10.png"), data.rglob("case2-5.png")
    second.write_bytes(first.read_bytes())
    found = evaluate_folder(EvaluateOptions(data, data.parent / "model.onnx", engine=EngineOptions("cpu")))
    assert found is not None
    assert [note for note in found.notes if "same image is listed under both labels (1 times): a/case1-10.png" in note]
