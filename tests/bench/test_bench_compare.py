"""bench --compare: sees what changed, keeps quiet about noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glomedge.bench.compare import compare
from glomedge.bench.record import read_record
from glomedge.errors import UsageError
from helpers import bench_builders as build


def _verdicts(old_factor: float, new_factor: float, seed: int = 0) -> dict[str, str]:
    old = build.record([build.configuration(scale=old_factor, seed=seed)])
    new = build.record([build.configuration(scale=new_factor, seed=seed + 1000)])
    return {change.figure: change.verdict for change in compare(old, new).changes}


def test_a_real_slowdown_is_seen_in_every_figure() -> None:
    assert _verdicts(1.0, 1.3) == {
        "latency, batch 1": "slower",
        "latency, batch 8": "slower",
        "offline": "slower",
        "end to end": "slower",
        "cold start": "slower",
    }


def test_a_real_speedup_is_seen() -> None:
    assert set(_verdicts(1.0, 0.7).values()) == {"faster"}


def test_two_runs_of_the_same_thing_are_within_noise() -> None:
    """A against A: of 40 pairs of records with drift, at most 1 in 40 figures may be called changed."""
    called = [v for seed in range(40) for v in _verdicts(1.0, 1.0, seed).values()]
    assert sum(v != "within noise" for v in called) <= len(called) / 40


@pytest.mark.parametrize("size", [3, 4, 5])
def test_few_rounds_are_rarely_called_apart_by_chance(size: int) -> None:
    from glomedge.bench.compare import _apart

    rng = np.random.default_rng(size)
    apart = sum(_apart(list(rng.normal(1, 0.05, size)), list(rng.normal(1, 0.05, size))) for _ in range(4000))
    assert apart / 4000 < 1 / 40


def test_a_tiny_difference_is_not_worth_a_word() -> None:
    """1% is real with enough samples, and within noise all the same."""
    assert _verdicts(1.0, 1.01)["latency, batch 1"] == "within noise"


def test_two_rounds_are_too_few() -> None:
    old = build.record([build.configuration(rounds=2)])
    new = build.record([build.configuration(rounds=2, scale=3.0)])
    verdicts = {change.figure: change.verdict for change in compare(old, new).changes}
    assert verdicts["end to end"] == "too few samples"


def test_throughput_is_shown_as_throughput_and_compared_as_time() -> None:
    old, new = build.record([build.configuration()]), build.record([build.configuration(scale=2.0)])
    offline = next(c for c in compare(old, new).changes if c.figure == "offline")
    assert offline.new < offline.old
    assert offline.ratio.value == pytest.approx(2.0, rel=0.1)


def test_what_is_only_in_one_record_and_what_differs_beside_is_named() -> None:
    old = build.record([build.configuration(), build.configuration(provider="openvino")], onnxruntime="1.31.1")
    new = build.record([build.configuration(sha256="b" * 64)], onnxruntime="1.32.0")
    comparison = compare(old, new)
    assert comparison.only_old == ("model.onnx fp32 openvino",)
    assert "onnxruntime: 1.31.1 -> 1.32.0" in comparison.environment
    assert comparison.parity == ("model.onnx fp32 cpu: the model file differs",)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_text("{}"), "not a bench.json"),
        (lambda path: path.write_text("not json"), "not a bench.json"),
        (lambda path: path.write_text(path.read_text().replace('"schema_version":1', '"schema_version":2')), "schema"),
    ],
)
def test_a_file_that_is_no_record_is_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(build.record([build.configuration()]).model_dump_json())
    assert read_record(path).configurations[0].name == "model.onnx fp32 cpu"
    spoil(path)
    with pytest.raises(UsageError, match=message):
        read_record(path)
