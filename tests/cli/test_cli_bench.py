"""``glomedge bench`` as a user runs it: real models, real processes, every provider that is not there named."""

from __future__ import annotations

import html
import importlib.util
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli import app
from glomedge.engine import golden
from glomedge.errors import ModelError, UsageError
from glomedge.model.file import sealed
from glomedge.model.spec import ModelSpec
from helpers.builders import build_tiny_model, tiny_graph, tiny_spec


def _bench(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments])


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn crops and one file that is no image."""
    folder = tmp_path_factory.mktemp("crops")
    for seed in range(12):
        crop = cv2.cvtColor(golden.draw_crop(seed), cv2.COLOR_RGB2BGR)
        assert cv2.imwrite(str(folder / f"S-{seed // 4}_PAS_1of1_{seed:024x}.png"), crop)
    (folder / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def outcome(tiny_model: Path, crops: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """One whole run: all scenarios, cold start, and a provider that cannot be there beside one that is."""
    output = tmp_path_factory.mktemp("bench")
    result = _bench(
        "--model", str(tiny_model), "--provider", "cpu", "--provider", "tensorrt", "--batch-size", "1,4", "--images",
        str(crops), "--duration", "0.2", "--scenario", "single-stream", "--scenario", "offline", "--scenario", "server",
        "--strict-placement", "--output", str(output),
    )  # fmt: skip
    return result, output


def test_a_missing_provider_is_exit_1_and_names_library_and_package(outcome: tuple[Result, Path]) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed here")
    result, output = outcome
    assert result.exit_code == 1
    assert "tensorrt" in result.stderr
    assert "onnxruntime" in result.stderr
    assert "pip install" in result.stderr
    record = json.loads((output / "bench.json").read_text())
    assert [failure["provider_asked"] for failure in record["failures"]] == ["tensorrt"]
    assert "pip install" in (output / "bench.html").read_text()


def test_the_other_provider_is_measured_and_reported_all_the_same(outcome: tuple[Result, Path]) -> None:
    result, output = outcome
    record = json.loads((output / "bench.json").read_text())
    (found,) = record["configurations"]
    assert found["provider"] == found["provider_asked"] == "cpu"
    assert set(found["runtime"]["placement"]) == {"CPUExecutionProvider"}
    assert [item["batch_size"] for item in found["latency"]] == [1, 4]
    for item in found["latency"]:
        samples = sorted(s for r in item["rounds_s"] for s in r)
        assert len(samples) == item["percentiles"]["n"] >= 5
        assert samples[0] * 1e3 <= item["percentiles"]["p50_ms"] <= item["percentiles"]["p99_ms"] <= samples[-1] * 1e3
    assert [s["name"] for s in found["scenarios"]] == ["single-stream", "offline", "server"]
    assert found["parity"]["passed"] is True
    assert found["parity"]["crops"] == 12
    assert found["memory"]["peak_rss_bytes"] >= found["memory"]["rss_after_load_bytes"] > 10 << 20
    assert found["cold_start"]["median_s"] >= sum(found["cold_start"]["steps_s"].values()) * 0.5
    assert found["cold_start"]["steps_s"]["import"] > 1e-3
    assert found["ceiling"]["rate_gmac_per_s"] > 0.1
    assert "fp32 cpu" in result.stdout
    assert RESEARCH_USE_NOTICE in result.stdout


def test_end_to_end_counts_every_stage_and_the_torn_file(outcome: tuple[Result, Path]) -> None:
    _, output = outcome
    (found,) = json.loads((output / "bench.json").read_text())["configurations"]
    walk = found["end_to_end"]
    assert walk["crops"] == 13
    assert all(r["failed"] == 1 for r in walk["rounds"])
    assert set(walk["stages_ms"]) >= {"decode", "enhance", "copy", "infer", "write"}
    assert sum(walk["share"].values()) == pytest.approx(1.0)
    assert walk["stages_ms"]["decode"] > 0
    assert walk["stages_ms"]["copy"] == 0.0  # the CPU reads the batch where it was enhanced
    assert walk["binds"].split()[0] == max(walk["share"], key=lambda name: walk["share"][name])


def test_the_record_names_no_folder_of_this_machine(outcome: tuple[Result, Path], crops: Path) -> None:
    _, output = outcome
    for name in ("bench.json", "bench.html"):
        text = (output / name).read_text()
        assert RESEARCH_USE_NOTICE in text
        assert str(crops.parent) not in text
        assert not re.search(r"(/home/|/root/|/tmp/)", text)


def test_json_compares_with_itself_as_unchanged(outcome: tuple[Result, Path]) -> None:
    _, output = outcome
    path = str(output / "bench.json")
    result = _bench("--compare", path, path, "--json")
    assert result.exit_code == 0
    changes = json.loads(result.stdout)["changes"]
    assert {c["figure"] for c in changes} >= {"latency, batch 1", "offline", "end to end", "cold start"}
    assert {c["verdict"] for c in changes} <= {"within noise", "too few samples"}
    words = _bench("--compare", path, path)
    assert "within noise" in words.stdout


def _badly_quantised(path: Path, fp32: ModelSpec) -> None:
    """The tiny network with its map squeezed through eight bits of a far too small range: fast, and wrong."""
    from onnx import helper, numpy_helper

    graph = tiny_graph(bias=0.0)
    convolution = next(node for node in graph.graph.node if "map" in node.output)
    convolution.output[0] = "exact"
    position = list(graph.graph.node).index(convolution) + 1
    graph.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(1e-4, np.float32), "scale"),
            numpy_helper.from_array(np.array(127, np.uint8), "zero"),
        ]
    )
    graph.graph.node.insert(position, helper.make_node("QuantizeLinear", ["exact", "scale", "zero"], ["eight"]))
    graph.graph.node.insert(position + 1, helper.make_node("DequantizeLinear", ["eight", "scale", "zero"], ["map"]))
    spec = tiny_spec(
        graph.SerializeToString(), precision="int8", target="onnxruntime", weights_sha256=fp32.weights_sha256
    )
    path.write_bytes(sealed(graph.SerializeToString(), spec))


def test_a_wrong_answer_is_shown_as_wrong(crops: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="writes the badly quantised file")
    fp32 = build_tiny_model(tmp_path / "model.onnx", bias=0.0)
    _badly_quantised(tmp_path / "model.int8.onnx", fp32)
    result = _bench(
        "--model", str(tmp_path / "model.onnx"), "--precision", "fp32", "--precision", "int8", "--provider", "cpu",
        "--batch-size", "4", "--images", str(crops), "--duration", "0.1", "--no-cold-start",
        "--output", str(tmp_path / "out"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    fp32_found, int8_found = json.loads((tmp_path / "out" / "bench.json").read_text())["configurations"]
    assert fp32_found["parity"]["passed"] is True
    assert int8_found["parity"]["reference"] == "model.onnx fp32 cpu"
    assert int8_found["parity"]["passed"] is False
    assert int8_found["parity"]["max_probability_difference"] > 0.25
    assert "WRONG" in (tmp_path / "out" / "bench.html").read_text()


def test_without_images_crops_are_drawn_and_said_to_be(tiny_model: Path, tmp_path: Path) -> None:
    result = _bench(
        "--model", str(tiny_model), "--batch-size", "1", "--duration", "0.1", "--no-cold-start",
        "--output", str(tmp_path), "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    (chosen,) = [note for note in record["notes"] if "auto chose" in note]
    assert chosen.startswith(f"{tiny_model.name} on auto: ran on {record['configurations'][0]['provider']}: ")
    assert chosen in html.unescape((tmp_path / "bench.html").read_text())
    assert record["crops"]["source"].startswith("drawn by glomedge bench")
    assert record["crops"]["mean_pixels"] > 100_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size"),
        (["--batch-size", "1,x"], "--batch-size"),
        (["--duration", "0"], "--duration"),
        (["--scenario", "multi-stream"], "single-stream, offline, server"),
        (["--precision", "int4"], "--precision"),
        (["--latency-bound-ms", "0"], "--latency-bound-ms"),
    ],
)
def test_arguments_that_cannot_be_carried_out(
    arguments: list[str], message: str, tiny_model: Path, tmp_path: Path
) -> None:
    result = _bench("--model", str(tiny_model), "--output", str(tmp_path), *arguments)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


def test_a_missing_model_or_precision_says_how_to_make_one(tiny_model: Path, tmp_path: Path) -> None:
    result = _bench("--model", str(tmp_path / "none.onnx"), "--output", str(tmp_path))
    assert isinstance(result.exception, ModelError)
    assert "glomedge export" in str(result.exception)
    result = _bench("--model", str(tiny_model), "--precision", "fp16", "--output", str(tmp_path))
    assert isinstance(result.exception, ModelError)
    assert "glomedge export --precision fp16" in str(result.exception)


def test_a_folder_without_images_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    result = _bench("--model", str(tiny_model), "--images", str(empty), "--output", str(tmp_path / "out"))
    assert isinstance(result.exception, UsageError)
    assert "--images" in str(result.exception)
