"""Temperature, threshold and counts of a model from elsewhere, on crops whose logits and labels are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from glomedge.cases.decision import sigmoid
from glomedge.model.scaling import Scaling
from glomedge.model.spec import ModelSource, Recipe
from glomedge_export.data.dataset import Item
from glomedge_export.progress import silent
from helpers.builders import tiny_graph

pytest.importorskip("tf2onnx", reason="needs the extra glomedge[export]")

from glomedge_export.data.export_crops import drawn, enhanced
from glomedge_export.export_source import measured as measuring
from glomedge_export.export_source.crops import ExportCrops
from glomedge_export.export_source.measured import measured, moved
from glomedge_export.export_source.source import Source
from glomedge_export.graph.convert import Converted
from glomedge_export.proof.reference import Reference

SIDE_PX = 32
RECIPE = Recipe.named("plain").model_copy(update={"size_px": SIDE_PX})
REDS = np.linspace(5, 250, 60).round().astype(int)
Floats = npt.NDArray[np.float64]


def logits(weight: float) -> Floats:
    """Of crops of one red each, by the graph of ``converted``."""
    return np.asarray((REDS - 127.5) * weight)


def converted(weight: float) -> Converted:
    graph = tiny_graph(side_px=SIDE_PX, cells=4, colour_weights=(weight, 0.0, 0.0), bias=0.0)
    return Converted(graph, (), Scaling.named("none"), SIDE_PX, 4, "other")


def source(threshold: str | None = None) -> Source:
    def never(*_: Any) -> Any:
        raise AssertionError("only the graph answers")

    origin = ModelSource(
        file_format="keras3",
        framework="keras",
        file_sha256="0" * 64,
        threshold_from="unknown" if threshold is None else "given",
    )
    return Source(Reference("keras", never), never, never, "", RECIPE, 0.5, 1.0, origin=origin)


def items(folder: Path, side: str, labels: npt.NDArray[np.int64]) -> tuple[Item, ...]:
    folder.mkdir(exist_ok=True)
    made = []
    for index, (red, label) in enumerate(zip(REDS, labels, strict=True)):
        path = folder / f"{side}{index}.png"
        Image.new("RGB", (SIDE_PX, SIDE_PX), (int(red), 90, 90)).save(path)
        made.append(Item(path.name, path, int(label), f"{side}{index % 3}", f"{side}{index % 3}", "0" * 64))
    return tuple(made)


@pytest.fixture
def crops(tmp_path: Path) -> Any:
    """Makes both halves; the labels are positive about as often as a sigmoid of ``temperature`` says."""

    def make(weight: float, temperature: float) -> ExportCrops:
        # As many of each run of six as the mean of their probabilities says, so that nothing is drawn by chance.
        wanted = sigmoid(logits(weight), temperature).reshape(-1, 6).mean(1)
        labels = np.concatenate([[0] * (6 - round(6 * p)) + [1] * round(6 * p) for p in wanted]).astype(np.int64)
        return ExportCrops(
            drawn(RECIPE, 16), None, "few", items(tmp_path, "a", labels), items(tmp_path, "b", labels[::-1].copy())
        )

    return make


def test_a_given_threshold_moves_with_the_temperature_so_that_no_decision_changes(crops: Any) -> None:
    halves = crops(0.05, 4.0)
    found = measured(source("0.8"), converted(0.05), halves, "0.8", silent)
    assert 2.0 < found.temperature < 8.0
    assert found.threshold == pytest.approx(moved(0.8, found.temperature), abs=1e-12)
    assert 0.5 < found.threshold < 0.75
    z = logits(0.05)
    called = sigmoid(z) >= 0.8
    np.testing.assert_array_equal(sigmoid(z, found.temperature) >= found.threshold, called)
    truth = np.array([item.label for item in halves.counting]) == 1
    assert found.operating_point is not None
    assert found.operating_point.true_positive == int((called & truth).sum())
    assert found.operating_point.false_positive == int((called & ~truth).sum())
    assert found.origin is not None
    assert (found.origin.threshold_from, found.origin.temperature_from) == ("given", "measured")
    (said,) = [line for line in found.found if line.startswith("threshold")]
    assert "given as 0.8 of the model's own probability, moved with the temperature" in said


@pytest.mark.parametrize(("rule", "origin"), [(None, "unknown"), ("youden", "measured"), ("0.5", "given")])
def test_where_a_threshold_comes_from_is_said(crops: Any, rule: str | None, origin: str) -> None:
    found = measured(source(rule), converted(0.05), crops(0.05, 4.0), rule, silent)
    assert found.origin is not None
    assert found.origin.threshold_from == origin
    assert (found.threshold == 0.5) == (origin != "measured")
    words = {"unknown": "nothing was given", "measured": "from 60 crops of 3 biopsies", "given": "given as 0.5"}[origin]
    assert any(line.startswith("threshold") and words in line for line in found.found)


@pytest.mark.parametrize(("weight", "temperature"), [(5.0, 0.01), (0.05, 1e9)])
def test_a_temperature_at_an_end_of_its_range_is_not_used(crops: Any, weight: float, temperature: float) -> None:
    found = measured(source("0.8"), converted(weight), crops(weight, temperature), "0.8", silent)
    assert (found.temperature, found.threshold) == (1.0, 0.8)
    assert found.origin is not None
    assert found.origin.temperature_from == "unknown"
    assert "temperature 1: unknown, because the crops show none between 0.05 and 20" in found.found
    assert "threshold 0.8: given" in found.found


def test_a_threshold_that_would_become_0_or_1_keeps_its_temperature(crops: Any) -> None:
    found = measured(source("0.999"), converted(0.01), crops(0.01, 0.3), "0.999", silent)
    assert (found.temperature, found.threshold) == (1.0, 0.999)
    assert any("the given threshold 0.999 has no place" in line for line in found.found)


def test_pixels_are_held_a_chunk_at_a_time(crops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = crops(0.05, 4.0)
    whole = measured(source(), converted(0.05), halves, "youden", silent)
    held: list[int] = []

    def watched(some: Any, *arguments: Any, **named: Any) -> Any:
        held.append(len(some))
        return enhanced(some, *arguments, **named)

    monkeypatch.setattr(measuring, "enhanced", watched)
    monkeypatch.setattr(measuring, "CHUNK", 7)
    chunked = measured(source(), converted(0.05), halves, "youden", silent)
    assert max(held) == 7
    assert sum(held) == 2 * len(REDS)
    assert (chunked.temperature, chunked.threshold) == (whole.temperature, whole.threshold)
    assert chunked.operating_point == whole.operating_point


def test_what_was_enhanced_before_is_not_read_again(crops: Any) -> None:
    some = crops(0.05, 4.0).fitting[:3]
    before = enhanced(some, RECIPE)
    some[1].path.unlink()
    marked = before[1] + np.uint8(1)
    after = enhanced(some, RECIPE, known={some[1].name: marked})
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    np.testing.assert_array_equal(after[1], marked)


def test_own_models_are_left_as_they_are(crops: Any) -> None:
    own = replace(source(), origin=None)
    assert measured(own, converted(0.05), crops(0.05, 4.0), None, silent) is own
