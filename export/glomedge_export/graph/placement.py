"""Where the cells of the activation map look in the input, read off the graph: for heatmaps (``reports.cell_grid``).

A layer of kernel k, stride s, dilation d and leading padding p, on an input whose position i looks at
``first + pitch * i``, gives positions that look at ``first + pitch * ((k - 1) * d / 2 - p)`` and every ``pitch * s``
from there: the centres of their receptive fields (Araujo, Norris and Sim, Distill 2019, Computing Receptive Fields of
Convolutional Neural Networks).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx
from onnx import helper

from glomedge.model.spec import MapPlacement
from glomedge_export.graph import surgery

_WINDOWED = {"Conv", "MaxPool", "AveragePool"}
# Each value of the result is made of values at the same position.
_POSITIONWISE = {
    "Add", "BatchNormalization", "Cast", "Clip", "Concat", "Div", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Max", "Min", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Selu",
    "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh",
}  # fmt: skip


@dataclass(frozen=True)
class _Grid:
    """Along height and width: the axes of the tensor, where position 0 looks, and the step to the next."""

    axes: tuple[int, int]
    first_px: tuple[float, float]
    pitch_px: tuple[float, float]


class _UnclearError(Exception):
    """A layer whose result has no one place, or is not known."""


def placement(model: onnx.ModelProto) -> MapPlacement | None:
    """Of ``activation`` in ``images``, NHWC; None where branches disagree, or a layer is not understood."""
    known = surgery.constants(model)
    grids: dict[str, _Grid | None] = {"images": _Grid((1, 2), (0.0, 0.0), (1.0, 1.0))}
    unclear: set[str] = set()
    for node in model.graph.node:
        inputs = [name for name in node.input if name and name not in known]
        found = [grid for name in inputs if (grid := grids.get(name)) is not None]
        try:
            if any(name in unclear for name in inputs):
                raise _UnclearError
            # Without a grid: a number for each channel, such as the gate of a squeeze-and-excitation block.
            result = _through(node, found, known) if found else None
        except _UnclearError:
            unclear.update(node.output)
            continue
        grids.update(dict.fromkeys(node.output, result))
    grid = grids.get("activation")
    if grid is None or grid.first_px[0] != grid.first_px[1] or grid.pitch_px[0] != grid.pitch_px[1]:
        return None
    return MapPlacement(first_px=grid.first_px[0], pitch_px=grid.pitch_px[0])


def _through(node: onnx.NodeProto, found: list[_Grid], known: dict[str, surgery.Array]) -> _Grid | None:
    """The grid of a node's result. Raises _UnclearError."""
    grid = found[0]
    if any(other != grid for other in found[1:]):
        raise _UnclearError
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type in _POSITIONWISE:
        return grid
    if node.op_type in _WINDOWED:
        return _windowed(grid, attributes, known.get(node.input[1]) if node.op_type == "Conv" else None)
    match node.op_type:
        case "GlobalAveragePool" | "GlobalMaxPool":
            return None
        case "ReduceMean" | "ReduceMax" if {axis % 4 for axis in attributes.get("axes", ())} == set(grid.axes):
            return None
        case "Gather" if attributes.get("axis", 0) not in grid.axes:
            return grid  # another order of the channels
        case "Transpose":
            order = list(attributes["perm"])
            return replace(grid, axes=(order.index(grid.axes[0]), order.index(grid.axes[1])))
        case "Squeeze":
            gone = _constant(node, known)
            if any(axis < 0 or axis in grid.axes for axis in gone):
                raise _UnclearError
            height, width = (axis - sum(other < axis for other in gone) for axis in grid.axes)
            return replace(grid, axes=(height, width))
        case "Pad":
            before = _constant(node, known)
            return _moved(grid, [-float(before[axis]) for axis in grid.axes])
    raise _UnclearError


def _constant(node: onnx.NodeProto, known: dict[str, surgery.Array]) -> list[int]:
    """The whole numbers of a node's second input."""
    if len(node.input) < 2 or node.input[1] not in known:
        raise _UnclearError
    return [int(value) for value in known[node.input[1]].reshape(-1)]


def _windowed(grid: _Grid, attributes: dict[str, object], weights: surgery.Array | None) -> _Grid:
    if grid.axes != (2, 3) or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise _UnclearError

    def pair(name: str, default: tuple[int, ...]) -> list[int]:
        value = attributes.get(name, default)
        assert isinstance(value, list | tuple)
        return [int(item) for item in value[:2]]

    kernel = pair("kernel_shape", () if weights is None else weights.shape[2:])
    if len(kernel) != 2:
        raise _UnclearError
    strides, dilations, before = pair("strides", (1, 1)), pair("dilations", (1, 1)), pair("pads", (0, 0))
    moved = _moved(grid, [(kernel[i] - 1) * dilations[i] / 2 - before[i] for i in (0, 1)])
    return replace(moved, pitch_px=(grid.pitch_px[0] * strides[0], grid.pitch_px[1] * strides[1]))


def _moved(grid: _Grid, steps: list[float]) -> _Grid:
    """Position 0 looks ``steps`` of its own pitch further."""
    first = tuple(grid.first_px[i] + grid.pitch_px[i] * steps[i] for i in (0, 1))
    return replace(grid, first_px=(first[0], first[1]))
