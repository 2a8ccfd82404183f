"""Builders shared by tests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.engine import golden
from glomedge.model.file import sealed
from glomedge.model.spec import MAP_SIZE, SIZE_PX, InputSpec, ModelSpec, Recipe
from glomedge.system.telemetry import import_onnxruntime


def tiny_graph(
    *,
    side_px: int = SIZE_PX,
    cells: int = MAP_SIZE,
    with_map: bool = True,
    colour_weights: tuple[float, float, float] = (0.05, -0.04, 0.03),
    bias: float = -4.0,
    temperature: float = 1.0,
    input_name: str = "images",
    input_dtype: str = "UINT8",
    input_shape: tuple[str | int, ...] | None = None,
    probability_name: str = "probability",
    activation_name: str = "activation",
    opset: int = 17,
) -> Any:
    """An ``onnx.ModelProto`` with the contract of a glomedge file, small enough for one millisecond a run.

    activation = a weighted sum of the mean R, G and B (less 127.5) of each of ``cells`` x ``cells`` cells, plus
    ``bias``; probability = sigmoid(mean(activation) / temperature). Without ``with_map`` the first is no output.
    ``cells`` must divide ``side_px``. The other arguments exist to break the contract.
    """
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, value: npt.NDArray[Any]) -> Any:
        return numpy_helper.from_array(value, name)

    cell_px, remainder = divmod(side_px, cells)
    assert remainder == 0
    nodes = [
        helper.make_node("Cast", [input_name], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["planes"], ["cells"], kernel_shape=[cell_px, cell_px], strides=[cell_px, cell_px]
        ),
        helper.make_node("Sub", ["cells", "middle"], ["centred"]),
        helper.make_node("Conv", ["centred", "weights", "bias"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logit"]),
        helper.make_node("Div", ["logit", "temperature"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], [probability_name]),
    ]
    initializers = [
        constant("middle", np.array(127.5, np.float32)),
        constant("weights", np.array(colour_weights, np.float32).reshape(1, 3, 1, 1)),
        constant("bias", np.array([bias], np.float32)),
        constant("temperature", np.array(temperature, np.float32)),
    ]
    outputs = [helper.make_tensor_value_info(probability_name, TensorProto.FLOAT, ["N", 1])]
    if with_map:
        initializers.append(constant("channel_axis", np.array([1], np.int64)))
        nodes.append(helper.make_node("Squeeze", ["map", "channel_axis"], [activation_name]))
        outputs.append(helper.make_tensor_value_info(activation_name, TensorProto.FLOAT, ["N", cells, cells]))
    shape = list(input_shape or ("N", side_px, side_px, 3))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(input_name, getattr(TensorProto, input_dtype), shape)],
        outputs,
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def tiny_logit(
    images_nhwc: npt.NDArray[np.uint8], colour_weights: tuple[float, float, float] = (0.05, -0.04, 0.03)
) -> npt.NDArray[np.float64]:
    """What ``tiny_graph`` computes with its default bias (-4) and temperature (1), ``[N]``, written without ONNX."""
    mean_rgb = images_nhwc.reshape(len(images_nhwc), -1, 3).mean(axis=1, dtype=np.float64) - 127.5
    return np.asarray(mean_rgb @ np.array(colour_weights)) - 4.0


def tiny_spec(graph_bytes: bytes, recipe: str | Recipe = "seed", **overrides: Any) -> ModelSpec:
    """The spec of a tiny graph, its golden self-test measured with onnxruntime. ``overrides`` replace any field.

    The input's side is that of the recipe.
    """
    ort = import_onnxruntime()

    chosen = Recipe.named(recipe) if isinstance(recipe, str) else recipe
    fields: dict[str, Any] = {
        "producer": "glomedge tests",
        "created_utc": "2026-01-01T00:00:00Z",
        "recipe": chosen,
        "input": InputSpec(height_px=chosen.size_px, width_px=chosen.size_px),
        "input_scaling": "resnet",
        "opset": 17,
        "weights_sha256": hashlib.sha256(graph_bytes).hexdigest(),
        "multiply_adds": 3 * MAP_SIZE * MAP_SIZE,
    }
    if "golden" not in overrides:
        session = ort.InferenceSession(graph_bytes, providers=["CPUExecutionProvider"])
        fields["golden"] = golden.make(
            chosen,
            lambda images: session.run(["probability"], {"images": images})[0],
            overrides.get("precision", "fp32"),
        )
    return ModelSpec.model_validate(fields | overrides)


def build_tiny_model(
    path: Path,
    *,
    recipe: str | Recipe = "seed",
    colour_weights: tuple[float, float, float] = (0.05, -0.04, 0.03),
    bias: float = -4.0,
    temperature: float = 1.0,
    **overrides: Any,
) -> ModelSpec:
    """Write a complete, sealed model file whose answers depend on the pixels (see ``tiny_graph``).

    Args:
        path: where to.
        recipe: its preprocessing.
        colour_weights, bias, temperature: of the graph; ``temperature`` goes into the spec as well.
        overrides: spec fields to replace (``threshold=0.7``, ``training=...``).
    """
    graph = tiny_graph(colour_weights=colour_weights, bias=bias, temperature=temperature).SerializeToString()
    spec = tiny_spec(graph, recipe, **({"temperature": temperature} | overrides))
    path.write_bytes(sealed(graph, spec))
    return spec


def build_tiny_other(
    path: Path, side_px: int, cells: int, *, recipe: str = "seed", with_map: bool = True, **overrides: Any
) -> ModelSpec:
    """A model file as of another network: its own side, and its own map or none; else as ``build_tiny_model``.

    Args:
        path: where to.
        side_px: of the input.
        cells: along one side of the map; must divide ``side_px``.
        recipe: name of its preprocessing.
        with_map: whether the graph has the output ``activation``.
        overrides: spec fields to replace.
    """
    graph = tiny_graph(side_px=side_px, cells=cells, with_map=with_map).SerializeToString()
    fields: dict[str, Any] = {"backbone": "other", "map": "exact" if with_map else "none", "map_cells": cells}
    sized = Recipe.named(recipe).model_copy(update={"size_px": side_px})
    spec = tiny_spec(graph, sized, **(fields | overrides))
    path.write_bytes(sealed(graph, spec))
    return spec
