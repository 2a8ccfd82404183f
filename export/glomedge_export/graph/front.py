"""The part of a network that treats every pixel alike: found in the graph, run, and read as a scaling.

Where it begins and ends is read off the operators; what it does is measured on all 256 values of each channel and on
mixed colours, so that it does not matter how a framework spells a subtraction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from glomedge.errors import ModelError
from glomedge.model.scaling import NAMED, Scaling
from glomedge.model.spec import Affine
from glomedge_export.graph import surgery
from glomedge_export.graph.ranges import session, with_outputs

# Largest error of the fitted line, of the largest value: some roundings of float32, and far below one grey level.
TOLERANCE = 4e-6
# Room for 256 values of each channel, and as many mixed colours.
PROBE_SIDE_PX = 32
# Where tf2onnx lets a slice end that goes to the end.
_END = 1_000_000_000
_INTEGERS = {
    *(onnx.TensorProto.UINT8, onnx.TensorProto.UINT16, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64),
    *(onnx.TensorProto.INT8, onnx.TensorProto.INT16, onnx.TensorProto.INT32, onnx.TensorProto.INT64),
}
_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
_ONE_BY_ONE = {"Identity", "Cast", "Neg", "Abs", "Sqrt", "Reciprocal", "Exp", "Log", "Clip"}
_WITH_CONSTANTS = {"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"}


@dataclass(frozen=True)
class Front:
    """Where the network proper begins, and what is done to the pixels before.

    Attributes:
        tensor: what everything behind the front reads.
        channels_last: whether that tensor is ``[N, H, W, 3]`` and not ``[N, 3, H, W]``.
        scaling: what was found; None where the pixels reach the network unchanged.
        behind_resizing: a scaling that the network itself applies behind a resizing or padding of its own, where it
            stays; ``scaling`` is None then.
        whole_numbers: whether the model takes its pixels as whole numbers (uint8), which no scaling outside it gives.
    """

    tensor: str
    channels_last: bool
    scaling: Scaling | None
    behind_resizing: Scaling | None = None
    whole_numbers: bool = False

    @property
    def known(self) -> Scaling | None:
        """What must be applied before the network; None where the model does not show it."""
        return Scaling.named("none") if self.behind_resizing is not None else self.scaling


def read_front(model: onnx.ModelProto) -> Front:
    """Find and measure the front of a network that reads float32 RGB pixels ``[N, side, side, 3]``.

    Args:
        model: constants folded (``surgery.fold_constants``).

    Raises:
        ModelError: what is done to the pixels is no factor and summand for each channel.
    """
    source = str(model.graph.input[0].name)
    whole = _casts_to_integers(model, source)
    tensor, channels_last, scaling = _scaled(model, source, True)
    if scaling is not None:
        return Front(tensor, channels_last, scaling, whole_numbers=whole)
    resized = _behind_resizing(model, tensor)
    behind = _scaled(model, resized, channels_last)[2] if resized != tensor else None
    return Front(tensor, channels_last, None, behind, whole)


def _casts_to_integers(model: onnx.ModelProto, source: str) -> bool:
    """Whether the pixels are made integers at once, as of a model whose input is one of them."""
    readers = [node for node in surgery.consumers(model).get(source, []) if node.op_type != "Shape"]
    return bool(readers) and all(
        node.op_type == "Cast" and surgery.attribute(node, "to") in _INTEGERS for node in readers
    )


def _scaled(model: onnx.ModelProto, start: str, channels_last: bool) -> tuple[str, bool, Scaling | None]:
    """The pointwise part that begins with a tensor: where it ends, the layout there, and its scaling unless none."""
    layouts = _pointwise(model, start, channels_last)
    tensor = _last_bottleneck(model, layouts, start)
    if tensor == start:
        return start, channels_last, None
    scaling = Scaling.of(_measure(model, (start, channels_last), (tensor, layouts[tensor])))
    return tensor, layouts[tensor], None if scaling.affine == NAMED["none"] else scaling


def _behind_resizing(model: onnx.ModelProto, tensor: str) -> str:
    """The tensor behind all resizing and padding that follows on another, or the same where none does."""
    readers = surgery.consumers(model)
    while True:
        after = [node for node in readers.get(tensor, []) if node.op_type != "Shape"]
        if len(after) != 1 or after[0].op_type not in ("Resize", "Pad") or after[0].input[0] != tensor:
            return tensor
        tensor = str(after[0].output[0])


def _pointwise(model: onnx.ModelProto, start: str, channels_last: bool) -> dict[str, bool]:
    """Every tensor that depends on its own pixel of ``start`` only, with True where its channels are last."""
    known = surgery.constants(model)
    layouts = {start: channels_last}
    for node in model.graph.node:
        read = [name for name in node.input if name in layouts]
        rest = [name for name in node.input if name and name not in layouts]
        if not read or len(node.output) != 1 or any(name not in known for name in rest):
            continue
        if len({layouts[name] for name in read}) > 1:
            continue
        after = _layout_after(node, layouts[read[0]], known, rest)
        if after is not None:
            layouts[node.output[0]] = after
    return layouts


def _layout_after(
    node: onnx.NodeProto, channels_last: bool, known: dict[str, surgery.Array], constants: list[str]
) -> bool | None:
    """The layout of what a node gives, or None where it is not pixel by pixel."""
    axis = 3 if channels_last else 1
    if node.op_type in _ONE_BY_ONE:
        return channels_last
    if node.op_type in _WITH_CONSTANTS:
        return channels_last if all(_per_channel(known[name], axis) for name in constants) else None
    if node.op_type == "Transpose":
        order = list(surgery.attribute(node, "perm", []))
        wanted = _TO_NCHW if channels_last else _TO_NHWC
        return not channels_last if order == wanted else channels_last if order == [0, 1, 2, 3] else None
    if node.op_type == "BatchNormalization":
        return channels_last if axis == 1 else None
    if node.op_type in ("Concat", "Gather"):
        return channels_last if int(surgery.attribute(node, "axis", 0)) in (axis, axis - 4) else None
    if node.op_type == "Slice" and len(node.input) > 3:
        return channels_last if _slices_channels(node, known, axis) else None
    return None


def _slices_channels(node: onnx.NodeProto, known: dict[str, surgery.Array], axis: int) -> bool:
    """Whether a ``Slice`` leaves every other axis whole."""
    starts, ends, axes = (known[name].reshape(-1).tolist() for name in node.input[1:4])
    steps = known[node.input[4]].reshape(-1).tolist() if len(node.input) > 4 else [1] * len(axes)
    return all(
        one % 4 == axis or (start == 0 and step == 1 and end >= _END)
        for start, end, one, step in zip(starts, ends, axes, steps, strict=True)
    )


def _per_channel(value: surgery.Array, axis: int) -> bool:
    """Whether a constant is the same for every pixel of a batch."""
    shape = (1,) * (4 - value.ndim) + value.shape
    return len(shape) == 4 and all(size == 1 for position, size in enumerate(shape) if position != axis)


def _last_bottleneck(model: onnx.ModelProto, layouts: dict[str, bool], start: str) -> str:
    """The last pointwise tensor through which everything that the network sees of the pixels passes."""
    readers = surgery.consumers(model)
    # The size of a picture is no pixel.
    left = {name: sum(n.op_type != "Shape" for n in readers.get(name, [])) for name in layouts}
    for output in model.graph.output:
        if output.name in left:
            left[output.name] += 1
    found = start
    alive = {found}
    for node in model.graph.node:
        if node.output[0] not in layouts or node.output[0] in alive:
            continue
        for name in node.input:
            if name in left:
                left[name] -= 1
        alive = {name for name in (*alive, node.output[0]) if left[name]}
        if alive == {node.output[0]}:
            found = str(node.output[0])
    return found


def probe(side_px: int) -> npt.NDArray[np.float32]:
    """float32 ``[1, side, side, 3]``: each channel's 256 values with the others fixed, greys, then random colours."""
    colours = np.random.default_rng(0).integers(0, 256, (side_px * side_px, 3))
    sweep = np.arange(256)
    for channel in range(3):
        rows = slice(256 * channel, 256 * (channel + 1))
        colours[rows] = 100
        colours[rows, channel] = sweep
    return colours.reshape(1, side_px, side_px, 3).astype(np.float32)


def _measure(model: onnx.ModelProto, begin: tuple[str, bool], end: tuple[str, bool]) -> Affine:
    """What is done to the pixels between two tensors, each with whether its channels are last."""
    (start, from_last), (tensor, channels_last) = begin, end
    side_px = PROBE_SIDE_PX
    pixels = probe(side_px)
    alone = with_outputs(model, [tensor], extremes=False)
    # Everything else that the graph takes are the weights of a skeleton.
    del alone.graph.input[:]
    alone.graph.input.append(onnx.helper.make_tensor_value_info(start, onnx.TensorProto.FLOAT, [None] * 4))
    surgery.replace_nodes(alone, [node for node in alone.graph.node if start not in node.output])
    fed = pixels if from_last else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    (result,) = session(surgery.prune(alone)).run(None, {start: fed})
    seen = np.asarray(result, np.float64)
    values = seen.reshape(-1, seen.shape[-1]) if channels_last else seen[0].reshape(seen.shape[1], -1).T
    if values.shape != (side_px * side_px, 3) or not np.isfinite(values).all():
        raise _refusal("does not give three finite channels")
    inputs = np.column_stack([pixels.reshape(-1, 3).astype(np.float64), np.ones(side_px * side_px)])
    lines, *_ = np.linalg.lstsq(inputs, values, rcond=None)
    size = max(1e-6, float(np.abs(values).max()))
    if float(np.abs(inputs @ lines - values).max()) > TOLERANCE * size:
        raise _refusal("is not a factor and a summand for each channel")
    weights, offset = lines[:3], lines[3]
    for order, picked in (("RGB", weights), ("BGR", weights[::-1])):
        scale = np.diagonal(picked)
        if float(np.abs(picked - np.diag(scale)).max()) * 255.0 <= TOLERANCE * size:
            return Affine(
                channel_order="RGB" if order == "RGB" else "BGR",
                scale=(float(scale[0]), float(scale[1]), float(scale[2])),
                offset=(float(offset[0]), float(offset[1]), float(offset[2])),
            )
    raise _refusal("mixes the colour channels")


def _refusal(what: str) -> ModelError:
    return ModelError(
        f"What this model does to the pixels before its first layer {what}, and glomedge carries nothing else in a "
        "model file. Remove it from the model and save it again."
    )
