"""``benchmarks/gpu.py`` without a card: the CPU stands in, every step runs, and failures leave the next to run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import gpu
from benchmarks.lib import gpu_checks
from benchmarks.lib.gpu_checks import Job
from benchmarks.lib.steps import Disagreement, Step, run_step
from glomedge.model.file import sealed
from helpers import builders
from helpers.paths import ROOT
from helpers.run_kit import write_crops


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    builders.build_tiny_model(folder / "model.onnx")
    half, quantised = builders.tiny_graph(), builders.tiny_graph()
    for index, name in ((i, tensor.name) for i, tensor in enumerate(list(half.graph.initializer))):
        if name in ("weights", "bias"):
            values = numpy_helper.to_array(half.graph.initializer[index]).astype(np.float16)
            half.graph.initializer[index].CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
            half.graph.node.insert(0, helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    scale, zero = np.array(1.0, np.float32), np.array(-128, np.int8)
    quantised.graph.initializer.extend([numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(zero, "zero")])
    quantised.graph.node[3].input[0] = "rounded"
    for name, put in (("QuantizeLinear", ["cells", "bytes"]), ("DequantizeLinear", ["bytes", "rounded"])):
        node = helper.make_node(name, [put[0], "scale", "zero"], [put[1]])
        quantised.graph.node.insert(3 if name == "QuantizeLinear" else 4, node)
    for name, graph, precision, target in (
        ("model.fp16.onnx", half, "fp16", "any"),
        ("model.int8.tensorrt.onnx", quantised, "int8", "tensorrt"),
    ):
        content = graph.SerializeToString()
        spec = builders.tiny_spec(content, precision=precision, target=target)
        (folder / name).write_bytes(sealed(content, spec))
    return folder


def rehearse(artifacts: Path, folder: Path, *more: str, cache: Path | None = None) -> tuple[int, dict[str, Any], str]:
    """Exit code, record and table of the command."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "export")])}
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--quick", "--artifacts", str(artifacts)]
    done = subprocess.run([*command, "--results", str(folder), *more], env=environment, cwd=ROOT, check=False)
    record = json.loads((folder / "gpu-rehearsal.json").read_text("utf-8"))
    return done.returncode, record, (folder / "gpu-rehearsal.md").read_text("utf-8")


def test_every_step_of_the_command_runs_without_a_card(artifacts: Path, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    write_crops(crops, 12)
    results, cache = tmp_path / "results", tmp_path / "xdg"
    results.mkdir()
    code, record, table = rehearse(artifacts, results, "--data", str(crops), "--crops", "10", cache=cache)
    steps = {step["name"]: step for step in record["steps"]}
    assert {name: (step["why"], step["trace"]) for name, step in steps.items() if step["result"] == "FAILED"} == {}
    assert code == 0
    # What the CPU does not stand in for is told apart from what passed.
    rtx = {name for name, step in steps.items() if step["result"] == "not run"}
    assert rtx == {name for name in steps if name.endswith("tensorrt-rtx")}
    planned = gpu.plan(job(tmp_path, crops), gpu.found_models(artifacts), gpu.PROVIDERS)
    assert list(steps) == ["machine", *(step.name for _, step in planned)]
    # fp32 on CUDA comes first, then the other files on it, then TensorRT.
    agreeing = [name for name in steps if " on " in name and "," not in name]
    assert agreeing[:3] == ["model.onnx on cuda", "model.fp16.onnx on cuda", "model.onnx on tensorrt"]
    assert "model.int8.tensorrt.onnx on cuda" not in steps
    assert steps["model.int8.tensorrt.onnx on tensorrt"]["found"]["limit"] == "0.5% flips"
    assert steps["out of memory, cuda"]["found"]["usual"]["batch_afterwards"] < 8
    assert steps["engine found again, tensorrt"]["found"]["load_s"] > 0
    # One step for each size: TensorRT builds an engine for each, and a step's time is limited.
    for size in (1, 8):
        (found,) = steps[f"throughput of batch {size}, model.onnx on cuda"]["found"]["throughput"]
        assert found["batch"] == size
    assert steps["infer, model.fp16.onnx on cuda"]["found"]["rows"] == 10
    assert "REHEARSAL" in table
    assert "nothing here is a figure of a GPU" in table
    assert all(name in table for name in steps)
    # The user's own engines are not touched.
    assert not list(cache.rglob("passport.json"))


def job(folder: Path, crops: Path | None = None) -> Job:
    return Job(crops, 10, folder / "engines", folder, (1, 8), 0.0, rehearsal=True)


def raises(error: BaseException) -> Any:
    def run() -> dict[str, Any]:
        raise error

    return run


def dies() -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def hangs() -> dict[str, Any]:
    time.sleep(600)
    return {}


@pytest.mark.parametrize(
    ("step", "result", "why"),
    [
        (Step("fine", lambda: {"a": 1}), "passed", ""),
        (Step("long", lambda: {"a": "x" * 500_000}), "passed", ""),
        (Step("finding", raises(Disagreement("too far", {"by": 2}))), "FAILED", "too far"),
        (Step("error", raises(ValueError("one\ntwo"))), "FAILED", "ValueError: one"),
        (Step("exit", raises(SystemExit("no crops"))), "FAILED", "SystemExit: no crops"),
        (Step("crash", dies), "FAILED", "the process ended with exit code -9"),
        (Step("hang", hangs, limit_s=0.3), "FAILED", "not done in 0.3 s"),
    ],
    ids=lambda value: value.name if isinstance(value, Step) else "",
)
def test_a_failure_is_the_steps_result(step: Step, result: str, why: str) -> None:
    outcome = run_step(step)
    assert (outcome.name, outcome.result, outcome.why) == (step.name, result, why)
    assert outcome.found == {"fine": {"a": 1}, "long": {"a": "x" * 500_000}, "finding": {"by": 2}}.get(step.name)


@pytest.mark.parametrize(
    ("precision", "difference", "flips", "problem"),
    [
        ("fp32", 9e-5, 0, ""),
        ("fp32", 2e-4, 0, "differs from the CPU by 2.0e-04, fp32 may by 0.0001"),
        ("fp16", 4e-3, 1, ""),
        ("fp16", 6e-3, 0, "differs from the CPU by 6.0e-03, fp16 may by 0.005"),
        ("int8", 0.2, 1, ""),
        ("int8", 0.2, 2, "2 of 200 decisions differ from the CPU's, 0.5% may"),
        ("int8", float("nan"), 0, "answers that are no numbers"),
    ],
)
def test_answers_are_held_against_the_cpus(
    tmp_path: Path, precision: str, difference: float, flips: int, problem: str
) -> None:
    expected = np.full(200, 0.4, np.float32)
    np.savez(tmp_path / "m.onnx.npz", crops=np.zeros((200, 1, 1, 3), np.uint8), expected=expected)
    answers = expected.copy()
    answers[5] += difference if precision != "int8" or np.isnan(difference) else 0
    answers[:flips] = 0.4 + (0.2 if precision == "int8" else difference)
    threshold = 0.5 if precision == "int8" else 0.4 + difference / 2
    found = gpu_checks._compared(job(tmp_path), Path("m.onnx"), precision, answers, threshold)
    assert found["problem"] == problem


def test_without_a_reference_a_step_says_so(tmp_path: Path) -> None:
    with pytest.raises(Disagreement, match=r"no reference for m\.onnx: its step failed"):
        gpu_checks.agrees(job(tmp_path), Path("m.onnx"), "cuda")


def test_without_a_provider_nothing_else_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> dict[str, Any]:
        raise Disagreement("no GPU provider can run here", {"not_usable": dict.fromkeys(gpu.PROVIDERS, "no driver")})

    monkeypatch.setattr(gpu_checks, "machine", nothing)
    models = {"fp32": [Path("model.onnx")], "fp16": [], "int8": []}
    machine, *others = gpu.run_all(job(tmp_path), models)
    assert (machine.result, machine.why) == ("FAILED", "no GPU provider can run here")
    assert {outcome.result for outcome in others} == {"not run"}
    assert {outcome.why for outcome in others} == {"no driver", "no GPU provider can run here"}
