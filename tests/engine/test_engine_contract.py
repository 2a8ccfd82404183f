"""A spec and a graph that disagree are refused at load, field by field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from glomedge.engine import loading
from glomedge.errors import ModelError, SelfTestError
from glomedge.model.file import read_model_file, sealed
from glomedge.model.spec import ModelSpec, Recipe
from helpers import builders
from helpers.sites import site_calibration


def behind(name: str, operator: str, dtype: int, shape: list[Any], **attributes: Any) -> Callable[[], Any]:
    """The tiny graph with an operator behind the output of that name, which so gets another type or shape."""

    def make() -> Any:
        model = builders.tiny_graph()
        for node in model.graph.node:
            node.output[:] = [f"{name}.was" if output == name else output for output in node.output]
        model.graph.node.append(helper.make_node(operator, [f"{name}.was"], [name], **attributes))
        at = [output.name for output in model.graph.output].index(name)
        model.graph.output[at].CopyFrom(helper.make_tensor_value_info(name, dtype, shape))
        return model

    return make


def changed(**arguments: Any) -> Callable[[], Any]:
    """``builders.tiny_graph`` with other arguments."""
    return lambda: builders.tiny_graph(**arguments)


def without(name: str) -> Callable[[], Any]:
    """The tiny graph without that output."""

    def make() -> Any:
        model = builders.tiny_graph()
        kept = [output for output in model.graph.output if output.name != name]
        del model.graph.output[:]
        model.graph.output.extend(kept)
        return model

    return make


def with_another_input() -> Any:
    """The tiny graph with a second input, which is given out again."""
    model = with_another_output()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 1]))
    model.graph.node[-1].input[:] = ["mask"]
    return model


def with_another_output() -> Any:
    """The tiny graph with a third output."""
    model = builders.tiny_graph()
    model.graph.node.append(helper.make_node("Identity", ["probability"], ["again"]))
    model.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, ["N", 1]))
    return model


# A graph that breaks the contract, and the words by which the message must name the field.
BROKEN_GRAPHS: dict[str, tuple[Callable[[], Any], str]] = {
    "input name": (changed(input_name="pictures"), "input name: the graph has pictures"),
    "input dtype": (changed(input_dtype="FLOAT"), "input 'images' dtype: the graph has float32"),
    "input dtype signed": (changed(input_dtype="INT8"), "input 'images' dtype: the graph has int8"),
    "input batch": (changed(input_shape=(1, 224, 224, 3)), r"input 'images' shape: the graph has \[1, 224, 224, 3\]"),
    "input height": (changed(input_shape=("N", 448, 224, 3)), r"input 'images' shape: .* \[N, 448, 224, 3\]"),
    "input width": (changed(input_shape=("N", 224, 448, 3)), r"input 'images' shape: .* \[N, 224, 448, 3\]"),
    "input width open": (changed(input_shape=("N", 224, "W", 3)), r"input 'images' shape: .* \[N, 224, N, 3\]"),
    "another input": (with_another_input, "input name: the graph has images, mask"),
    "probability name": (changed(probability_name="score"), "output name: the graph has activation, score"),
    "probability missing": (without("probability"), "output name: the graph has activation, the contract"),
    "probability dtype": (
        behind("probability", "Cast", TensorProto.DOUBLE, ["N", 1], to=TensorProto.DOUBLE),
        "output 'probability' dtype",
    ),
    "probability half": (
        behind("probability", "Cast", TensorProto.FLOAT16, ["N", 1], to=TensorProto.FLOAT16),
        "output 'probability' dtype: the graph has float16",
    ),
    "probability shape": (
        behind("probability", "Flatten", TensorProto.FLOAT, [1, "N"], axis=0),
        r"output 'probability' shape: the graph has \[1, N\]",
    ),
    "probability of two classes": (
        behind("probability", "Concat", TensorProto.FLOAT, ["N", 2], axis=1),
        r"output 'probability' shape: the graph has \[N, 2\]",
    ),
    "activation name": (changed(activation_name="map7"), "output name: the graph has map7, probability"),
    "activation missing": (without("activation"), "output name: the graph has probability, the contract"),
    "activation dtype": (
        behind("activation", "Cast", TensorProto.FLOAT16, ["N", 7, 7], to=TensorProto.FLOAT16),
        "output 'activation' dtype: the graph has float16",
    ),
    "activation shape": (
        behind("activation", "Flatten", TensorProto.FLOAT, ["N", 49]),
        r"output 'activation' shape: the graph has \[N, 49\]",
    ),
    "another side": (changed(side_px=96, cells=3), r"input 'images' shape: the graph has \[N, 96, 96, 3\]"),
    "activation of other cells": (changed(cells=8), r"'activation' shape: the graph has \[N, 8, 8\]"),
    "another output": (with_another_output, "output name: the graph has activation, again, probability"),
    "opset": (changed(opset=16), "opset: spec 17, graph 16"),
    "temperature": (changed(temperature=1.01), r"temperature: spec 1, graph 1\.01"),
}


@pytest.mark.parametrize("name", BROKEN_GRAPHS)
def test_a_graph_that_breaks_the_contract_is_refused_naming_the_field(
    tmp_path: Path, tiny_model: Path, name: str
) -> None:
    make, words = BROKEN_GRAPHS[name]
    model = make()
    if name == "probability of two classes":
        model.graph.node[-1].input.append("probability.was")
    path = tmp_path / "broken.onnx"
    path.write_bytes(sealed(model.SerializeToString(), read_model_file(tiny_model).spec))
    with pytest.raises(ModelError, match=words) as caught:
        loading.load(path, "cpu")
    assert "xport the model again" in str(caught.value)


# Another value than the graph's, and by what it is found.
SPEC_CHANGES: dict[str, tuple[Any, type[ModelError], str]] = {
    "schema_version": (3, ModelError, "schema_version"),
    "opset": (18, ModelError, "opset: spec 18, graph 17"),
    "precision": ("int8", ModelError, "precision: spec int8, graph fp32"),
    "temperature": (3.0, ModelError, "temperature: spec 3, graph 1"),
    "recipe": (Recipe.named("plain"), SelfTestError, "preprocessing"),
    "golden": ({"probability": 0.9}, SelfTestError, "gives probability"),
    "input": ({"width_px": 448}, ModelError, "input: Value error, the input is 224 x 448 px"),
    "map": ("none", ModelError, "the graph has activation, probability, the contract requires probability"),
    # Slope and offset themselves: tests/model/test_site_graph.py.
    "site": (site_calibration(), ModelError, "a recalibrated model has the operating_point of its site"),
    "map_cells": (8, ModelError, r"'activation' shape: the graph has \[N, 7, 7\], the contract requires \[N, 8, 8\]"),
}
# What the graph does not say: decisions and words of the user, where the file comes from, what was measured at export.
# weights_sha256 is of the Keras weights, before export folded them; runners act on neither it, multiply_adds nor
# input_scaling. Against accidents the seal stands before all of them, against other weights or another scaling the
# golden probability.
NOT_IN_THE_GRAPH = {
    "producer", "created_utc", "notice", "class_names", "threshold", "target", "batch_profile", "weights_sha256", "mpp",
    "multiply_adds", "input_scaling", "input_affine", "backbone", "map_placement", "source", "training",
    "operating_point", "calibration", "parity",
}  # fmt: skip


def test_every_field_of_the_spec_is_held_against_the_graph_or_is_not_in_it() -> None:
    assert set(SPEC_CHANGES) | NOT_IN_THE_GRAPH == set(ModelSpec.model_fields)
    assert not set(SPEC_CHANGES) & NOT_IN_THE_GRAPH


def refused(tmp_path: Path, field: str, value: Any, error: type[ModelError], words: str) -> None:
    graph = builders.tiny_graph().SerializeToString()
    spec = builders.tiny_spec(graph)
    if isinstance(value, dict):
        value = getattr(spec, field).model_copy(update=value)
    path = tmp_path / "edited.onnx"
    path.write_bytes(sealed(graph, spec.model_copy(update={field: value})))
    with pytest.raises(error, match=words):
        loading.load(path, "cpu")


@pytest.mark.parametrize("field", SPEC_CHANGES)
def test_a_spec_that_disagrees_with_its_graph_is_refused(tmp_path: Path, field: str) -> None:
    refused(tmp_path, field, *SPEC_CHANGES[field])


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "pictures", "input.name"),
        ("layout", "NCHW", "input.layout"),
        ("channel_order", "BGR", "input.channel_order"),
        ("dtype", "float32", "input.dtype"),
        ("height_px", 448, "the input is 448 x 224 px"),
        ("width_px", 448, "the input is 224 x 448 px"),
    ],
)
def test_a_spec_of_another_input_is_refused(tmp_path: Path, field: str, value: Any, words: str) -> None:
    refused(tmp_path, "input", {field: value}, ModelError, words)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"pixels_zlib_base64": "AAAA"}, {"probability": 0.0}])
def test_another_golden_self_test_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    refused(tmp_path, "golden", changes, ModelError, "elf-test")


@pytest.mark.parametrize("temperature", [0.5, 0.99, 1.01, 4.0])
@pytest.mark.parametrize("bias", [-4.16, -6.0])
def test_a_wrong_temperature_is_found_whatever_the_golden_crop_says(
    tmp_path: Path, bias: float, temperature: float
) -> None:
    """At a bias of -4.16 the golden logit is almost 0, and sigmoid(0 / temperature) is one half for all of them."""
    graph = builders.tiny_graph(bias=bias).SerializeToString()
    spec = builders.tiny_spec(graph)
    assert (abs(spec.golden.probability - 0.5) < 0.01) == (bias == -4.16)
    path = tmp_path / "edited.onnx"
    path.write_bytes(sealed(graph, spec.model_copy(update={"temperature": temperature})))
    with pytest.raises(ModelError, match="temperature"):
        loading.load(path, "cpu")


def test_a_graph_whose_map_is_not_its_probability_is_refused(tmp_path: Path) -> None:
    """The number that export left in the graph is right, but something else divides the logit."""
    model = builders.tiny_graph(bias=-6.0)
    for node in model.graph.node:
        if node.op_type == "Div":
            node.input[1] = "middle"
    graph = model.SerializeToString()
    path = tmp_path / "odd.onnx"
    path.write_bytes(sealed(graph, builders.tiny_spec(graph)))
    with pytest.raises(ModelError, match="disagree on temperature or activation"):
        loading.load(path, "cpu")
