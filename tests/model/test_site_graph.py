"""Slope and offset put into a model file by hand, held against the onnx package and onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from glomedge.engine import loading
from glomedge.errors import ModelError
from glomedge.model.file import read_model_file, sealed
from glomedge.model.graph import check_graph, read_graph_facts
from glomedge.model.site_calibration import SiteCalibration
from glomedge.model.site_graph import with_site_line
from glomedge.model.spec import OperatingPoint
from glomedge.runs.recalibrate import shifted_golden
from glomedge.system.telemetry import import_onnxruntime
from helpers.builders import build_tiny_model, build_tiny_other, tiny_graph, tiny_spec
from helpers.sites import site_calibration

SLOPE, OFFSET = 0.625, 1.75  # exact in float32
POINT = OperatingPoint(true_positive=9, false_negative=1, true_negative=18, false_positive=2)


def answers(graph: bytes, images: npt.NDArray[np.uint8]) -> list[Any]:
    session = import_onnxruntime().InferenceSession(graph, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"images": images}))


def images(side_px: int = 224) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (5, side_px, side_px, 3)).astype(np.uint8)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_probability_is_that_of_the_line_and_the_map_stays(tmp_path: Path, temperature: float) -> None:
    path = tmp_path / "parent.onnx"
    build_tiny_model(path, temperature=temperature)
    graph = with_site_line(path, SLOPE, OFFSET)
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    parent, child = answers(path.read_bytes(), images()), answers(graph, images())
    logit = parent[1].mean(axis=(1, 2), dtype=np.float64) / temperature
    assert np.array_equal(child[1], parent[1])
    assert np.allclose(child[0][:, 0], 1 / (1 + np.exp(-(SLOPE * logit + OFFSET))), atol=1e-6)
    assert np.abs(child[0] - parent[0]).max() > 0.1


def test_a_network_without_a_map(tmp_path: Path) -> None:
    path = tmp_path / "parent.onnx"
    build_tiny_other(path, 96, 3, with_map=False)
    (parent,), (child,) = (answers(data, images(96)) for data in (path.read_bytes(), with_site_line(path, 2.0, -1.0)))
    logit = np.log(parent / (1 - parent))
    assert np.allclose(child, 1 / (1 + np.exp(-(2.0 * logit - 1.0))), atol=1e-5)


def test_everything_else_is_the_parents_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "parent.onnx"
    build_tiny_model(path)
    parent, child = onnx.load(path), onnx.load_from_string(with_site_line(path, SLOPE, OFFSET))
    names = [tensor.name for tensor in parent.graph.initializer]
    assert [tensor.name for tensor in child.graph.initializer] == [*names, "site.slope", "site.offset"]
    for before, after in zip(parent.graph.initializer, child.graph.initializer, strict=False):
        assert before.SerializeToString() == after.SerializeToString()
    added = [node.op_type for node in child.graph.node if node.op_type in ("Mul", "Add", "Sigmoid")]
    assert added == ["Mul", "Add", "Sigmoid"]
    kept = [node.SerializeToString() for node in parent.graph.node if node.op_type != "Sigmoid"]
    assert [n.SerializeToString() for n in child.graph.node if n.op_type not in ("Mul", "Add", "Sigmoid")] == kept
    assert numpy_helper.to_array(child.graph.initializer[-2]) == np.float32(SLOPE)
    assert not child.metadata_props  # spec and seal of the parent are gone
    assert child.opset_import == parent.opset_import


def test_metadata_of_others_stays(tmp_path: Path) -> None:
    model = tiny_graph()
    entry = model.metadata_props.add()
    entry.key, entry.value = "author", "a lab"
    graph = model.SerializeToString()
    path = tmp_path / "parent.onnx"
    path.write_bytes(sealed(graph, tiny_spec(graph)))
    child = onnx.load_from_string(with_site_line(path, SLOPE, OFFSET))
    assert [(entry.key, entry.value) for entry in child.metadata_props] == [("author", "a lab")]


def child_of(tmp_path: Path, slope: float, offset: float, said: SiteCalibration | None) -> Path:
    """A file with that line in its graph, whose spec says something, perhaps something else."""
    parent, path = tmp_path / "parent.onnx", tmp_path / "child.onnx"
    spec = build_tiny_model(parent, operating_point=POINT)
    golden = shifted_golden(spec.golden, slope, offset)
    path.write_bytes(
        sealed(with_site_line(parent, slope, offset), spec.model_copy(update={"site": said, "golden": golden}))
    )
    return path


def test_the_constants_are_read_back(tmp_path: Path) -> None:
    path = child_of(tmp_path, SLOPE, OFFSET, site_calibration(SLOPE, OFFSET))
    facts = check_graph(path, read_model_file(path).spec)
    assert (facts.slope, facts.offset) == (SLOPE, OFFSET)
    parent = read_graph_facts(tmp_path / "parent.onnx")
    assert (parent.slope, parent.offset) == (1.0, 0.0)
    with loading.load(path, "cpu") as engine:
        assert engine.spec.logit_line == (SLOPE, OFFSET)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, "the site's slope: spec 1, graph 0.625"),
        (site_calibration(0.626, OFFSET), "the site's slope: spec 0.626, graph 0.625"),
        (site_calibration(SLOPE, 1.7), "the site's offset: spec 1.7, graph 1.75"),
    ],
)
def test_they_must_be_those_of_the_spec(tmp_path: Path, said: SiteCalibration | None, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        loading.load(child_of(tmp_path, SLOPE, OFFSET, said), "cpu")


def test_a_spec_of_a_site_on_the_parents_graph_is_refused(tmp_path: Path) -> None:
    graph = tiny_graph().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(sealed(graph, tiny_spec(graph, site=site_calibration(), operating_point=POINT)))
    with pytest.raises(ModelError, match=r"the site's slope: spec 0\.625, graph 1"):
        loading.load(path, "cpu")


def test_constants_without_their_nodes_are_found_by_the_map(tmp_path: Path) -> None:
    # A graph edited by hand: the constants are there, but nothing reads them.
    model = tiny_graph()
    for name, value in (("site.slope", SLOPE), ("site.offset", OFFSET)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    graph = model.SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(sealed(graph, tiny_spec(graph, site=site_calibration(), operating_point=POINT)))
    with pytest.raises(ModelError, match=r"at temperature 1, the site's slope 0.625 and offset 1.75, the graph"):
        loading.load(path, "cpu")


def test_a_second_time_is_refused(tmp_path: Path) -> None:
    path, child = tmp_path / "parent.onnx", tmp_path / "child.onnx"
    spec = build_tiny_model(path)
    child.write_bytes(sealed(with_site_line(path, SLOPE, OFFSET), spec))
    with pytest.raises(ModelError, match="recalibrated before"):
        with_site_line(child, SLOPE, OFFSET)


def test_a_probability_that_is_no_sigmoid_is_refused(tmp_path: Path) -> None:
    model = tiny_graph()
    model.graph.node[-2 if model.graph.node[-1].op_type == "Squeeze" else -1].op_type = "HardSigmoid"
    graph = model.SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(sealed(graph, tiny_spec(graph)))
    with pytest.raises(ModelError, match="comes from 'HardSigmoid', not from a sigmoid"):
        with_site_line(path, SLOPE, OFFSET)


def test_a_graph_without_the_output_is_refused(tmp_path: Path) -> None:
    model = helper.make_model(helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", [], []))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"No node of .* gives 'probability'"):
        with_site_line(path, SLOPE, OFFSET)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    build_tiny_model(path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ModelError, match="cannot be read"):
        with_site_line(path, SLOPE, OFFSET)
