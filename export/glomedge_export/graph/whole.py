"""A whole inference function of TensorFlow as ONNX, and its skeleton: the graph without its weights, in seconds."""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from glomedge.errors import ModelError
from glomedge_export.graph import surgery
from glomedge_export.graph.convert import IR_VERSION, OPSET

PIXELS = "pixels"
# A constant of more numbers is a weight, not a setting: no scaling, axis or shape has as many.
_MOST_OF_A_SETTING = 4096


class Inference(Protocol):
    """What is converted (``keras_files.load.ForeignModel``)."""

    @property
    def side_px(self) -> int:
        """Height and width of the input."""

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for each crop: 1 or 2."""

    def inference(self) -> Any:
        """tf.function, float32 ``[N, side, side, 3]`` RGB 0..255 -> ``[N, outputs]``, not training."""


@dataclass(frozen=True)
class Frozen:
    """A traced function with its variables made constants and its calls inlined.

    Attributes:
        graph_def: TensorFlow's GraphDef.
        source: name of the input tensor.
        result: name of the output tensor.
    """

    graph_def: Any
    source: str
    result: str


def freeze(model: Inference) -> Frozen:
    """Trace a model's inference function.

    Raises:
        ModelError: not one picture in and one answer out, or computed in half precision.
    """
    from glomedge_export.frameworks import frozen_function, tf, traced

    signature = tf.TensorSpec((None, model.side_px, model.side_px, 3), tf.float32)
    function = frozen_function(traced(model.inference(), signature))
    if len(function.inputs) != 1 or len(function.outputs) != 1:
        raise ModelError(
            f"This model takes {len(function.inputs)} inputs and gives {len(function.outputs)} outputs. glomedge takes "
            "one picture and one answer: save the part of it that answers from the picture alone."
        )
    halves = [
        op for op in function.graph.get_operations() if any(t.dtype in (tf.float16, tf.bfloat16) for t in op.outputs)
    ]
    if halves:
        raise ModelError(
            f"This model computes in half precision ({halves[0].name}), and so does its answer that a float32 file "
            "would be compared with. Save it as .keras or .h5 instead of a SavedModel: those are computed in float32."
        )
    return Frozen(function.graph.as_graph_def(), function.inputs[0].name, function.outputs[0].name)


@dataclass(frozen=True)
class LogitsFunction:
    """A frozen model asked for what it has before its last activation, in TensorFlow itself."""

    function: Any

    def predict(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """float32 ``[N, side, side, 3]`` -> logits float32 ``[N, outputs]``."""
        from glomedge_export.frameworks import tf

        return np.asarray(self.function(tf.constant(images)), np.float32)


def logits_function(frozen: Frozen) -> LogitsFunction:
    """The same function up to the input of its ``Sigmoid`` or ``Softmax``."""
    from glomedge_export.frameworks import tf

    nodes = {node.name: node for node in frozen.graph_def.node}
    node = nodes[frozen.result.partition(":")[0]]
    while node.op in ("Identity", "Cast", "Reshape"):
        node = nodes[node.input[0].partition(":")[0]]
    wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(frozen.graph_def, name=""), [])
    graph = wrapped.graph
    last = graph.get_operation_by_name(node.name)
    fetched = last.inputs[0] if node.op in ("Sigmoid", "Softmax") else last.outputs[0]
    return LogitsFunction(wrapped.prune(graph.get_tensor_by_name(frozen.source), fetched))


def skeleton(frozen: Frozen) -> onnx.ModelProto:
    """The graph with every weight as an input instead of a number: a second or two, whatever the network's size.

    Front and output can be read off it; what depends on the weights' values cannot.
    """
    from glomedge_export.frameworks import tf

    bare = tf.compat.v1.GraphDef.FromString(frozen.graph_def.SerializeToString())
    weights = []
    for node in bare.node:
        if node.op != "Const":
            continue
        shape = [dim.size for dim in node.attr["value"].tensor.tensor_shape.dim]
        if int(np.prod(shape, dtype=np.int64)) > _MOST_OF_A_SETTING:
            kind = node.attr["dtype"].type
            node.op = "Placeholder"
            node.attr.clear()
            node.attr["dtype"].type = kind
            for size in shape:
                node.attr["shape"].shape.dim.add().size = size
            weights.append(f"{node.name}:0")
    return _cleaned(_convert(bare, [frozen.source, *weights], frozen.result))


def whole(frozen: Frozen) -> onnx.ModelProto:
    """The whole graph, cleaned: ``pixels`` float32 ``[N, side, side, 3]`` -> the model's own output."""
    return _cleaned(_convert(frozen.graph_def, [frozen.source], frozen.result))


def _convert(graph_def: Any, inputs: list[str], output: str) -> onnx.ModelProto:
    import tf2onnx

    # TensorFlow speaks of deprecated functions that tf2onnx calls, tf2onnx of what is refused below.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    graph_def = _without_erfc(graph_def)
    model, _ = tf2onnx.convert.from_graph_def(graph_def, input_names=inputs, output_names=[output], opset=OPSET)
    # tf2onnx leaves its graphs in reference cycles: gigabytes that Python would keep until the very end.
    gc.collect()
    # tf2onnx leaves what it does not know under the name that TensorFlow has for it.
    foreign = sorted({node.op_type for node in model.graph.node if node.domain or not onnx.defs.has(node.op_type)})
    if any(name.endswith("PartitionedCall") for name in foreign):
        raise ModelError(
            "This model holds a function that was compiled apart, as a SavedModel does of grouped convolutions. Save "
            "it as .keras or .h5 instead of a SavedModel."
        )
    if foreign:
        raise ModelError(
            f"This model uses operations that ONNX does not have ({', '.join(foreign)}). Replace the layers that "
            "need them by standard Keras layers and save it again."
        )
    return model


def _without_erfc(graph_def: Any) -> Any:
    """``Erfc``, with which TensorFlow writes ``gelu`` and which ONNX lacks, as ``1 - Erf``."""
    if not any(node.op == "Erfc" for node in graph_def.node):
        return graph_def
    from glomedge_export.frameworks import tf

    made = tf.compat.v1.GraphDef.FromString(graph_def.SerializeToString())
    for node in [node for node in made.node if node.op == "Erfc"]:
        one, erf = made.node.add(), made.node.add()
        erf.CopyFrom(node)
        erf.name, erf.op = f"{node.name}/erf", "Erf"
        one.name, one.op = f"{node.name}/one", "Const"
        one.attr["dtype"].type = node.attr["T"].type
        one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1.0, tf.dtypes.as_dtype(node.attr["T"].type)))
        node.op = "Sub"
        node.input[:] = [one.name, erf.name]
    return made


def _cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants folded, shapes settled, the batch named ``N``."""
    model = surgery.copy(model)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.ir_version = IR_VERSION
    (pixels, dims) = (model.graph.input[0].name, model.graph.input[0].type.tensor_type.shape.dim)
    dims[0].Clear()
    dims[0].dim_param = "N"
    model.graph.input[0].name = PIXELS
    for node in model.graph.node:
        node.input[:] = [PIXELS if name == pixels else name for name in node.input]
    return settle_shapes(surgery.fold_constants(model))


def settle_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes that the graph computes from the batch become constants: the batch is -1, all else is known.

    ``Flatten`` and ``Reshape`` of Keras ask for the size of the batch while running. Nodes between that question and
    the reshaping would be numbers of another kind among the activations that are quantised and rounded.
    """
    if not any(node.op_type == "Shape" for node in model.graph.node):
        return model
    known = surgery.constants(model)
    computed = {node.input[1] for node in model.graph.node if node.op_type == "Reshape" and node.input[1] not in known}
    few, many = (_with_batch(model, count, computed) for count in (2, 3))
    model = surgery.copy(model)
    for name in computed & few.keys() & many.keys():
        pair = few[name], many[name]
        if pair[0].shape == pair[1].shape and int((pair[0] != pair[1]).sum()) <= 1:
            settled = np.where(pair[0] == pair[1], pair[0], -1).astype(np.int64)
            fixed = surgery.add_constant(model, f"{name}.settled", settled)
            for node in model.graph.node:
                if node.op_type == "Reshape" and node.input[1] == name:
                    node.input[1] = fixed
    return surgery.prune(model)


def _with_batch(model: onnx.ModelProto, count: int, wanted: set[str]) -> dict[str, surgery.Array]:
    """Those of the wanted tensors that depend on nothing but the size of the batch, for a batch of that size."""
    model = surgery.copy(model)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].Clear()
    dims[0].dim_value = count
    found: dict[str, surgery.Array] = {}
    while True:
        shapes = surgery.static_shapes(onnx.shape_inference.infer_shapes(model, data_prop=True))
        fresh = {name: value for name, value in _computed(model, shapes).items() if name in wanted - found.keys()}
        if not fresh:
            return found
        found |= fresh
        # A shape that is known makes those behind it known.
        for name, value in fresh.items():
            surgery.add_constant(model, name, value)
        surgery.replace_nodes(model, [node for node in model.graph.node if node.output[0] not in fresh])


def _computed(model: onnx.ModelProto, shapes: dict[str, tuple[int | str, ...]]) -> dict[str, surgery.Array]:
    """Every tensor that follows from constants and from the sizes of tensors whose size is known."""
    values: dict[str, surgery.Array] = dict(surgery.constants(model))
    for node in model.graph.node:
        shape = shapes.get(node.input[0], ()) if node.op_type == "Shape" else ()
        if shape and all(isinstance(size, int) and size > 0 for size in shape):
            values[node.output[0]] = np.asarray(shape, np.int64)
        elif node.op_type != "Shape" and all(name in values for name in node.input if name):
            results = surgery.evaluate(model, node, {name: values[name] for name in node.input if name})
            values.update(zip(node.output, results or [], strict=False))
    return values
