"""Surgery on the ONNX graph: small functions, each exact, each proven equivalent in tests/export/test_graph.py.

Every function takes a ``ModelProto`` and returns another one; the argument is never changed. ``op_counts`` before
and after tells what a step did (``apply`` records it). Activations are NCHW throughout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from glomedge.errors import ModelError

Array = npt.NDArray[Any]
FOLD_LIMIT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Step:
    """One surgical step: its name, and the operator counts before and after."""

    name: str
    before: dict[str, int]
    after: dict[str, int]


def op_counts(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of each operator, by name."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def apply(
    model: onnx.ModelProto, steps: Iterable[tuple[str, Callable[[onnx.ModelProto], onnx.ModelProto]]]
) -> tuple[onnx.ModelProto, tuple[Step, ...]]:
    """Run the named steps in order; returns the last graph and what each step changed."""
    record = []
    for name, step in steps:
        before = op_counts(model)
        model = step(model)
        record.append(Step(name, before, op_counts(model)))
    return model, tuple(record)


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A deep copy that may be changed."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    return twin


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    """Every initializer by name, as arrays (read-only views where possible)."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Which nodes read each tensor. Graph outputs are not listed."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute, or the default where the node does not carry it."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def replace_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Put these nodes in place of all nodes (in place)."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def add_constant(model: onnx.ModelProto, name: str, value: Array) -> str:
    """Add or replace an initializer (in place); returns its name."""
    # Not ascontiguousarray: that makes a scalar an array of one, which onnxruntime before 1.32 refuses as a scale.
    tensor = numpy_helper.from_array(np.array(value, order="C"), name)
    for old in model.graph.initializer:
        if old.name == name:
            old.CopyFrom(tensor)
            return name
    model.graph.initializer.append(tensor)
    return name


def prune(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop nodes whose outputs nobody reads and initializers that no node uses."""
    model = copy(model)
    needed = {output.name for output in model.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    replace_nodes(model, reversed(kept))
    live = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    fresh = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in live]
    del model.graph.initializer[:]
    model.graph.initializer.extend(fresh)
    del model.graph.value_info[:]
    return model


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Evaluate every node whose inputs are all constants and drop ``Identity`` nodes.

    A result larger than 64 MiB stays a node, so that a small file cannot become a huge one.
    """
    model = copy(model)
    known = constants(model)
    outputs = {output.name for output in model.graph.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.output[0] not in outputs:
            renamed[node.output[0]] = node.input[0]
            continue
        has_subgraph = any(item.type == onnx.AttributeProto.GRAPH for item in node.attribute)
        constant = not has_subgraph and all(name in known for name in node.input if name)
        if constant and not outputs.intersection(node.output):
            results = evaluate(model, node, {name: known[name] for name in node.input if name})
            if results is not None and sum(value.nbytes for value in results) <= FOLD_LIMIT_BYTES:
                for name, value in zip(node.output, results, strict=True):
                    known[name] = value
                    add_constant(model, name, value)
                continue
        kept.append(node)
    replace_nodes(model, kept)
    return prune(model)


def evaluate(model: onnx.ModelProto, node: onnx.NodeProto, inputs: dict[str, Array]) -> list[Array] | None:
    """One node on constants with ONNX' own reference implementation; None if it is random by definition."""
    if node.op_type.startswith("Random") or node.op_type in ("Multinomial", "Bernoulli"):
        return None
    graph = helper.make_graph(
        [node],
        "fold",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in inputs.items()
        ],
        [helper.make_value_info(name, onnx.TypeProto()) for name in node.output],
    )
    single = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    return [np.asarray(value) for value in ReferenceEvaluator(single).run(None, inputs)]


def _per_channel(value: Array | None) -> Array | None:
    """``[C]`` of a constant shaped ``[1, C, 1, 1]`` or ``[C, 1, 1]``; None for anything else."""
    if value is None or value.dtype != np.float32:
        return None
    shape = value.shape[-3:]
    if len(shape) == 3 and shape[1:] == (1, 1) and value.size == shape[0]:
        return value.reshape(-1)
    return None


def batchnorm_from_mul_add(model: onnx.ModelProto) -> onnx.ModelProto:
    """``Mul`` by a constant per channel followed by ``Add`` of one -> one ``BatchNormalization``.

    mean 0, variance 1, epsilon 0: scale and shift stay bit for bit what they were. onnxruntime runs the pair
    as two passes over memory, and BatchNormalization as one inside its blocked (NCHWc) layout.
    """
    model = copy(model)
    known = constants(model)
    readers = consumers(model)
    outputs = {output.name for output in model.graph.output}
    gone: set[str] = set()
    kept = []
    for node in model.graph.node:
        if node.output[0] in gone:
            continue
        found = _mul_add(node, known, readers, outputs)
        if found is None:
            kept.append(node)
            continue
        x, scale, add, shift = found
        base = _stem(add.output[0])
        zero, one = np.zeros_like(scale), np.ones_like(scale)
        named = {"scale": scale, "shift": shift, "mean": zero, "variance": one}
        names = [add_constant(model, f"{base}.{key}", value) for key, value in named.items()]
        kept.append(helper.make_node("BatchNormalization", [x, *names], list(add.output), name=base, epsilon=0.0))
        gone.add(add.output[0])
    replace_nodes(model, kept)
    return prune(model)


def _mul_add(
    node: onnx.NodeProto, known: dict[str, Array], readers: dict[str, list[onnx.NodeProto]], outputs: set[str]
) -> tuple[str, Array, onnx.NodeProto, Array] | None:
    if node.op_type != "Mul" or node.output[0] in outputs or len(readers.get(node.output[0], [])) != 1:
        return None
    add = readers[node.output[0]][0]
    if add.op_type != "Add":
        return None
    scales = [(x, _per_channel(known.get(c))) for x, c in (tuple(node.input), tuple(reversed(node.input)))]
    shifts = [_per_channel(known.get(name)) for name in add.input if name != node.output[0]]
    for x, scale in scales:
        if scale is not None and shifts and shifts[0] is not None and shifts[0].shape == scale.shape:
            return x, scale, add, shifts[0]
    return None


def depthwise_from_batchnorm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every ``BatchNormalization`` -> a 1x1 depthwise ``Conv`` with bias, the form that int8 kernels run."""
    model = copy(model)
    known = constants(model)
    kept = []
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            kept.append(node)
            continue
        gamma, beta, mean, variance = (known[name].astype(np.float64) for name in node.input[1:5])
        scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        shift = beta - mean * scale
        base = node.name or _stem(node.output[0])
        weight = add_constant(model, f"{base}.weight", scale.astype(np.float32).reshape(-1, 1, 1, 1))
        bias = add_constant(model, f"{base}.bias", shift.astype(np.float32))
        kept.append(
            helper.make_node(
                "Conv",
                [node.input[0], weight, bias],
                list(node.output),
                name=base,
                kernel_shape=[1, 1],
                group=len(scale),
            )
        )
    replace_nodes(model, kept)
    return prune(model)


def border_max(model: onnx.ModelProto) -> onnx.ModelProto:
    """Zero ``Pad`` before ``MaxPool`` -> ``MaxPool`` with implicit padding, then ``Max`` with a constant border.

    onnxruntime before 1.32 (and ``quant_pre_process``, and onnxsim) merge the zero padding into the pool's own
    padding, which counts as -inf: wrong wherever every value under the window is negative. Here the pool itself
    pads with -inf, and the zero that the border windows must see comes from ``Max(pooled, border)``, where
    ``border`` is 0 for windows that reach into the padding and the lowest float elsewhere. No Pad is left, so
    no fusion can break it, and it is cheaper: the padded copy of the largest tensor is gone.

    Raises:
        ModelError: a zero padding before a max-pool whose input size is not static.
    """
    if not any(node.op_type == "Pad" for node in model.graph.node):
        return prune(model)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    known = constants(model)
    readers = consumers(model)
    shapes = static_shapes(model)
    merged: dict[str, tuple[onnx.NodeProto, Array]] = {}
    for node in model.graph.node:
        pads = zero_padding(node, known)
        after = readers.get(node.output[0], [])
        if pads is not None and len(after) == 1 and after[0].op_type == "MaxPool":
            merged[after[0].output[0]] = (node, pads)
    dropped = {pad.output[0] for pad, _ in merged.values()}
    kept = []
    for node in model.graph.node:
        if node.output[0] in dropped:
            continue
        if node.output[0] in merged:
            kept.extend(_bordered_pool(model, node, *merged[node.output[0]], shapes))
        else:
            kept.append(node)
    replace_nodes(model, kept)
    return prune(model)


def zero_padding(node: onnx.NodeProto, known: dict[str, Array]) -> Array | None:
    """``[2, 2]`` begin and end padding of height and width where the node pads those with zeros, else None."""
    if node.op_type != "Pad" or attribute(node, "mode", b"constant") != b"constant" or len(node.input) > 3:
        return None
    if len(node.input) == 3 and node.input[2] and np.any(known.get(node.input[2], np.ones(1)) != 0):
        return None
    pads = known.get(node.input[1])
    if pads is None or pads.size != 8 or np.any(pads.reshape(2, 4)[:, :2] != 0) or np.any(pads < 0):
        return None
    return pads.reshape(2, 4)[:, 2:]


def _bordered_pool(
    model: onnx.ModelProto, pool: onnx.NodeProto, pad: onnx.NodeProto, pads: Array, shapes: dict[str, tuple[Any, ...]]
) -> list[onnx.NodeProto]:
    height_width = shapes.get(pad.input[0], ())[2:]
    if len(height_width) != 2 or not all(isinstance(side, int) for side in height_width):
        raise ModelError(
            f"The size of the padded max-pool {pool.name!r} is not static. Export a network of one input size."
        )
    kernel = attribute(pool, "kernel_shape")
    strides = attribute(pool, "strides", [1, 1])
    reaches, ends = [], []
    for axis, size in enumerate(height_width):
        begin, padded = int(pads[0, axis]), int(size + pads[:, axis].sum())
        count = (padded - kernel[axis]) // strides[axis] + 1
        first = np.arange(count) * strides[axis] - begin
        last = first + kernel[axis] - 1
        reaches.append((first < 0) | (last >= size))
        # Only as much padding at the far end as the last window uses: the pool must give the same size.
        ends.append(max(0, int(last[-1]) - size + 1))
    touches = reaches[0][:, None] | reaches[1][None, :]
    border = np.where(touches, np.float32(0), np.finfo(np.float32).min).astype(np.float32)[None, None]
    if any(end >= side for end, side in zip(ends, kernel, strict=True)):
        raise ModelError(f"The padding of max-pool {pool.name!r} is wider than its window. Remove it from the model.")
    base = _stem(pool.output[0])
    inner = f"{base}.unpadded"
    name = add_constant(model, f"{base}.border", border)
    begins = [int(pads[0, 0]), int(pads[0, 1])]
    return [
        helper.make_node(
            "MaxPool", [pad.input[0]], [inner], name=base, kernel_shape=kernel, strides=strides, pads=[*begins, *ends]
        ),
        helper.make_node("Max", [inner, name], list(pool.output), name=f"{base}.max"),
    ]


def static_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | str, ...]]:
    """Shapes of all tensors that shape inference has named: ints, or the name of a dynamic dimension."""
    shapes: dict[str, tuple[int | str, ...]] = {}
    for info in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        if info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim
            shapes[info.name] = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims)
    for tensor in model.graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
    return shapes


def multiply_adds(model: onnx.ModelProto) -> int:
    """Multiply-adds of one crop, counted over ``Conv`` from the graph itself (input size static).

    Depthwise convolutions that stand for a BatchNormalization are counted as well: they are executed.

    Raises:
        ModelError: a convolution whose output size cannot be inferred.
    """
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shapes = static_shapes(inferred)
    total = 0
    for node in inferred.graph.node:
        if node.op_type != "Conv":
            continue
        out, weight = shapes.get(node.output[0], ()), shapes.get(node.input[1], ())
        sizes = [side for side in (*out[1:], *weight[1:]) if isinstance(side, int)]
        if len(out) != 4 or len(weight) != 4 or len(sizes) != 6:
            raise ModelError(f"The output size of {node.name!r} is unknown. Export a network of one input size.")
        total += int(np.prod(sizes, dtype=np.int64))
    return total


def peak_activation_bytes(model: onnx.ModelProto, batch: int) -> int:
    """Bytes of all activations alive at once at the worst moment, node by node in the order of the graph.

    What a runtime needs that fuses nothing and wastes nothing: a figure to plan memory with, weights not included.
    """
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    weights = {tensor.name for tensor in inferred.graph.initializer}
    sizes: dict[str, int] = {}
    for info in [*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info]:
        kind = info.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else batch for dim in kind.shape.dim]
        # A tensor whose inferred first dimension does not follow the batch is a dequantised weight.
        if info.name not in weights and kind.shape.dim and not kind.shape.dim[0].HasField("dim_value"):
            width = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).itemsize
            sizes[info.name] = int(np.prod(dims, dtype=np.int64)) * width
    last_use = {name: index for index, node in enumerate(inferred.graph.node) for name in node.input}
    forever = {output.name for output in inferred.graph.output}
    alive = {info.name for info in inferred.graph.input}
    peak = 0
    for index, node in enumerate(inferred.graph.node):
        alive.update(node.output)
        peak = max(peak, sum(sizes.get(name, 0) for name in alive))
        alive -= {name for name in alive if last_use.get(name, -1) <= index and name not in forever}
    return peak


def _stem(tensor: str) -> str:
    return tensor.removesuffix(":0").removesuffix(".out")
