"""Float16: the strongly typed graph, its exact emulation on a CPU, and the search for what does not fit.

Newer TensorRT has no weak typing: the types in the file are what runs. So every tensor between ``scaled`` and
``features`` is float16 in the file itself, with casts at both ends; int8 files for TensorRT are float16 there too
between their convolutions.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from glomedge.errors import GateError, ModelError
from glomedge_export.graph import surgery
from glomedge_export.graph.ranges import extremes
from glomedge_export.graph.run import Images
from glomedge_export.graph.surgery import add_constant, attribute, constants
from glomedge_export.progress import Progress, silent

FP16_MAX = 65_504.0
# QuantizeLinear and DequantizeLinear take float16 scales from here on.
OPSET_OF_HALF_SCALES = 19
IR_OF_HALF_SCALES = 9


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Strongly typed float16 between ``scaled`` and ``features``; uint8 in, float32 out.

    Mean subtraction and the dense layer with all behind it stay float32: they cost nothing, and pixel values and
    logits keep their digits. In a graph quantised to int8 the scales become float16 as well (opset 19), so that a
    DequantizeLinear gives float16; ``ranges`` has chosen them so that nothing is rounded here.

    Raises:
        GateError: a weight beyond float16's 65,504; names the layer.
    """
    model = _opset_for(surgery.copy(model))
    known = constants(model)
    inside = between(model, "scaled", "features")
    halved = {node.output[0] for node in inside}
    read = {name for node in inside for name in node.input}
    # A dequantised weight depends on no pixel, but its reader wants it in float16.
    weights = [node for node in model.graph.node if node.output[0] in read - halved and node.input[0] in known]
    for node in [*inside, *weights]:
        # ONNX wants the scales of a resizing in float32, whatever it resizes.
        for name in node.input if node.op_type != "Resize" else ():
            value = known.get(name)
            if value is None or value.dtype != np.float32:
                continue
            border = name.endswith(".border")
            if not border and np.abs(value).max(initial=0.0) > FP16_MAX:
                raise GateError(
                    f"fp16 is refused: layer {node.name} has a weight of {np.abs(value).max():.3g}, beyond "
                    "float16's 65,504. Nothing was written. Choose --precision fp32 or int8."
                )
            add_constant(model, name, np.clip(value, -FP16_MAX, FP16_MAX).astype(np.float16))
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.output[0] in halved:
            node.input[:] = ["scaled.half" if name == "scaled" else name for name in node.input]
            node.output[:] = ["features.half" if name == "features" else name for name in node.output]
        nodes.append(node)
        if node.output[0] == "scaled":
            nodes.append(_cast("scaled", "scaled.half", TensorProto.FLOAT16))
        if node.output[0] == "features.half":
            nodes.append(_cast("features.half", "features", TensorProto.FLOAT))
    surgery.replace_nodes(model, nodes)
    return surgery.prune(model)


def _opset_for(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as it is, or, where it is quantised, in the opset that knows float16 scales (in place)."""
    if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return model
    for node in model.graph.node:
        if node.op_type == "ReduceMean" and attribute(node, "axes") is not None:
            # Opset 18 made the axes an input.
            axes = add_constant(model, f"{node.name}.axes", np.asarray(attribute(node, "axes"), np.int64))
            kept = [item for item in node.attribute if item.name != "axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.input.append(axes)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET_OF_HALF_SCALES))
    model.ir_version = IR_OF_HALF_SCALES
    return model


def _cast(source: str, result: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{result}.cast", to=to)


def between(model: onnx.ModelProto, first: str, last: str) -> list[onnx.NodeProto]:
    """Nodes that depend on ``first`` and that ``last`` depends on, in order."""
    reached, inside = {first}, []
    for node in model.graph.node:
        if reached.intersection(node.input):
            inside.append(node)
            reached.update(node.output)
            if last in node.output:
                return inside
    raise ModelError(f"The graph has no path from {first!r} to {last!r}: it is not a model trained by glomedge.")


def has_fp16(model: onnx.ModelProto) -> bool:
    """Whether any weight or scale is float16."""
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)


def emulate_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph that rounds as a float16 graph does, to judge a float16 file on a CPU.

    onnxruntime runs float16 on a CPU as float32 from the first cast to the last: overflow and rounding do not show.
    Here every float16 tensor is kept as float32 and rounded to float16 (and to Inf beyond it) behind each node;
    integers between QuantizeLinear and DequantizeLinear stay what they are.
    """
    model = surgery.copy(model)
    half = {name for name, value in constants(model).items() if value.dtype == np.float16}
    for name, value in constants(model).items():
        if name in half:
            add_constant(model, name, value.astype(np.float32))
    nodes: list[onnx.NodeProto] = []
    rounded: dict[str, str] = {}
    halves: set[str] = set()
    for node in model.graph.node:
        to_half = node.op_type == "Cast" and attribute(node, "to") == TensorProto.FLOAT16
        from_half = node.op_type == "Cast" and node.input[0] in halves
        # The result of QuantizeLinear is an integer, whatever the type of what it reads.
        plain = from_half or node.op_type == "QuantizeLinear"
        typed_half = to_half or (not plain and any(name in halves or name in half for name in node.input))
        node.input[:] = [rounded.get(name, name) for name in node.input]
        output = node.output[0]
        if from_half:
            nodes.append(helper.make_node("Identity", [node.input[0]], [output], name=node.name))
            continue
        if typed_half:
            halves.add(output)
            rounded[output] = f"{output}.rounded"
            if to_half:
                nodes.append(helper.make_node("Identity", [node.input[0]], [output], name=node.name))
            else:
                nodes.append(node)
            nodes.append(_cast(output, f"{output}.half", TensorProto.FLOAT16))
            nodes.append(_cast(f"{output}.half", f"{output}.rounded", TensorProto.FLOAT))
        else:
            nodes.append(node)
    surgery.replace_nodes(model, nodes)
    return surgery.prune(model)


def fp16_reach(model: onnx.ModelProto, images_nhwc: Images, progress: Progress = silent) -> dict[str, float]:
    """The largest absolute value of each tensor between ``scaled`` and ``features``, in the order of the graph."""
    names = [name for node in between(model, "scaled", "features") for name in node.output]
    return {name: max(abs(a), abs(b)) for name, (a, b) in extremes(model, names, images_nhwc, progress).items()}


def check_fp16_range(model: onnx.ModelProto, images_nhwc: Images, progress: Progress = silent) -> tuple[str, float]:
    """Where the float32 graph comes nearest to float16's limit, over these crops.

    ``resnet`` scaling feeds values about a hundred times larger than the ImageNet weights of this backbone were
    trained with, and they grow from there.

    Returns:
        The layer with the largest absolute value, and that value.

    Raises:
        GateError: a layer goes beyond 65,504; names the first one in the order of the graph.
    """
    reach = fp16_reach(model, images_nhwc, progress)
    for name, value in reach.items():
        if not value <= FP16_MAX:
            raise GateError(
                f"fp16 is refused: layer {name} reaches {value:.4g} on real crops, beyond float16's 65,504 "
                f"(Inf or clipped). Nothing was written. Choose --precision fp32 or int8"
                ", or train with --input-scaling resnet_v2, whose values stay about a hundred times smaller."
            )
    worst = max(reach, key=lambda name: reach[name])
    return worst, reach[worst]
