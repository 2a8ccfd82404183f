"""The first convolution of an int8 file over blocks of 2 x 2 pixels, for the integer kernels of CPUs.

A convolution with stride 2 over 3 channels is the same sum as one with stride 1 over the 12 channels of 2 x 2 blocks,
its kernel laid out anew with zeros where it grows to an even size (the stem of ResNet-50 in many MLPerf submissions).
Integer sums have no rounding, so the answers are the same bits. onnxruntime's direct kernels take input channels in
fours; three are first copied pixel by pixel into a matrix. Measured in benchmarks/graph/int8_stem.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from glomedge_export.graph import surgery
from glomedge_export.graph.surgery import add_constant, attribute, constants, consumers

BLOCK = 2
PIXELS = "images"


@dataclass(frozen=True)
class _Stem:
    """``PIXELS`` -> Transpose -> DequantizeLinear -> Conv, the weight behind a DequantizeLinear of its own."""

    transpose: onnx.NodeProto
    conv: onnx.NodeProto
    weight_name: str
    weight: npt.NDArray[np.int8]


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """The quantised graph with its first convolution over blocks of pixels.

    Args:
        model: of ``int8.to_int8``; input ``images`` uint8 ``[N, H, W, 3]``.

    Returns:
        A copy with the same answers to the bit; ``model`` itself where its first convolution reads no raw uint8 pixels
        or has not stride 2 on even sides.
    """
    model = surgery.copy(model)
    stem = _find(model)
    sides = _sides(model)
    if stem is None or sides is None:
        return model
    geometry = [_along(stem, axis, sides[axis]) for axis in (0, 1)]
    if geometry[0] is None or geometry[1] is None:
        return model
    (shift_y, begin_y, end_y), (shift_x, begin_x, end_x) = geometry[0], geometry[1]
    weight = _in_blocks(stem.weight, shift_y, shift_x)
    add_constant(model, stem.weight_name, weight)
    del stem.conv.attribute[:]
    stem.conv.attribute.extend(
        helper.make_attribute(name, value)
        for name, value in (
            ("kernel_shape", list(weight.shape[2:])),
            ("strides", [1, 1]),
            ("pads", [begin_y, begin_x, end_y, end_x]),
        )
    )
    stem.transpose.input[0] = f"{PIXELS}.blocks"
    surgery.replace_nodes(model, [*_blocks(model, *sides), *model.graph.node])
    del model.graph.value_info[:]
    return model


def _find(model: onnx.ModelProto) -> _Stem | None:
    readers, known = consumers(model), constants(model)
    makers = {name: node for node in model.graph.node for name in node.output}

    def only(name: str, kind: str) -> onnx.NodeProto | None:
        after = readers.get(name, [])
        return after[0] if len(after) == 1 and after[0].op_type == kind else None

    transpose = only(PIXELS, "Transpose")
    real = transpose and only(transpose.output[0], "DequantizeLinear")
    conv = real and only(real.output[0], "Conv")
    if transpose is None or conv is None:
        return None
    behind = makers.get(conv.input[1])
    if behind is None or behind.op_type != "DequantizeLinear" or behind.input[0] not in known:
        return None
    weight = known[behind.input[0]]
    plain = attribute(conv, "group", 1) == 1 and list(attribute(conv, "dilations", [1, 1])) == [1, 1]
    said = attribute(conv, "auto_pad", b"NOTSET") in (b"NOTSET", "NOTSET")
    if not plain or not said or weight.dtype != np.int8 or list(attribute(conv, "strides", [1, 1])) != [BLOCK, BLOCK]:
        return None
    return _Stem(transpose, conv, behind.input[0], weight)


def _sides(model: onnx.ModelProto) -> tuple[int, int] | None:
    """Height and width of the input, where both are known and even."""
    shape = next(each for each in model.graph.input if each.name == PIXELS).type.tensor_type.shape.dim
    height, width = shape[1].dim_value, shape[2].dim_value
    return (height, width) if height > 0 and width > 0 and height % BLOCK == width % BLOCK == 0 else None


def _along(stem: _Stem, axis: int, side: int) -> tuple[int, int, int] | None:
    """Of one axis: zeros before the kernel, and the padding in blocks at begin and end; None where it cannot be.

    Output o reads pixels 2 o - p to 2 o - p + k - 1 (p: padding, k: kernel), thus blocks o - ceil(p / 2) onwards.
    """
    kernel = stem.weight.shape[2 + axis]
    pads = list(attribute(stem.conv, "pads", [0, 0, 0, 0]))
    before, after = pads[axis], pads[axis + 2]
    outputs = (side + before + after - kernel) // BLOCK + 1
    begin = -(-before // BLOCK)
    shift = begin * BLOCK - before
    end = outputs - 1 - side // BLOCK - begin + -(-(kernel + shift) // BLOCK)
    return (shift, begin, end) if end >= 0 else None


def _in_blocks(weight: npt.NDArray[np.int8], shift_y: int, shift_x: int) -> npt.NDArray[np.int8]:
    """``[O, C, h, w]`` -> ``[O, 4 C, ceil, ceil]``: channel ``(row in block, column in block, C)``."""
    out, channels, height, width = weight.shape
    rows, columns = -(-(height + shift_y) // BLOCK), -(-(width + shift_x) // BLOCK)
    grown = np.zeros((out, channels, rows * BLOCK, columns * BLOCK), np.int8)
    grown[:, :, shift_y : shift_y + height, shift_x : shift_x + width] = weight
    split = grown.reshape(out, channels, rows, BLOCK, columns, BLOCK)
    return np.ascontiguousarray(split.transpose(0, 3, 5, 1, 2, 4).reshape(out, BLOCK * BLOCK * channels, rows, columns))


def _blocks(model: onnx.ModelProto, height: int, width: int) -> list[onnx.NodeProto]:
    """uint8 ``[N, H, W, 3]`` -> ``[N, H / 2, W / 2, 12]``.

    Two neighbours of a row lie side by side in memory, so that half is a view. The rows are parted and laid side by
    side by Slice and Concat, which is faster than one Transpose of so short rows (six numbers).
    """
    pairs = add_constant(model, f"{PIXELS}.pairs.shape", np.asarray([-1, height, width // BLOCK, 3 * BLOCK], np.int64))
    first = [add_constant(model, f"{PIXELS}.row{row}", np.asarray([row], np.int64)) for row in range(BLOCK)]
    last = add_constant(model, f"{PIXELS}.rows", np.asarray([height], np.int64))
    axis = add_constant(model, f"{PIXELS}.row.axis", np.asarray([1], np.int64))
    step = add_constant(model, f"{PIXELS}.row.step", np.asarray([BLOCK], np.int64))
    rows = [f"{PIXELS}.rows{row}" for row in range(BLOCK)]
    return [
        helper.make_node("Reshape", [PIXELS, pairs], [f"{PIXELS}.pairs"], name=f"{PIXELS}.pairs"),
        *(
            helper.make_node("Slice", [f"{PIXELS}.pairs", begin, last, axis, step], [name], name=name)
            for begin, name in zip(first, rows, strict=True)
        ),
        helper.make_node("Concat", rows, [f"{PIXELS}.blocks"], name=f"{PIXELS}.blocks", axis=3),
    ]
