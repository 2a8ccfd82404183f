"""The float32 graph in int8, in the layout that each runtime needs (float16 is in ``float16.py``).

Layouts (measured in benchmarks/graph/int8_layouts.py):

- ``onnxruntime``: uint8 activations with zero points, int8 weights per channel, every operator quantised, the
  BatchNormalizations as 1x1 depthwise convolutions, the uint8 input straight into the first convolution.
- ``tensorrt``: symmetric int8 activations at the inputs of convolutions only; NVIDIA's parser refuses uint8. The
  residual sums stay in floating point, where TensorRT fuses them: ``lower.py`` makes that float16.
- ``openvino``: the layout of ``onnxruntime``, with the max-pool left in floating point.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from glomedge.errors import ModelError
from glomedge.model.spec import Target
from glomedge_export.graph import residual_scales, surgery
from glomedge_export.graph.float16 import between
from glomedge_export.graph.ranges import (
    Method,
    Observed,
    Scale,
    corrected_bias,
    quantised_weight,
    signed,
    signed_half,
    unsigned,
)
from glomedge_export.graph.surgery import add_constant, attribute, constants, consumers

HEAD = "head"
SAME_NUMBERS = ("MaxPool", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Identity")
# Grey levels between a channel's mean and the zero point that all channels share.
MOST_LEFT = 16.0


def prepare_int8(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """The float32 graph in the form that is quantised for a target (still float32, still exact)."""
    if target == "tensorrt":
        return surgery.copy(model)
    return surgery.depthwise_from_batchnorm(model)


def quantised_tensors(model: onnx.ModelProto, target: Target) -> list[str]:
    """The tensors whose ranges must be known, in the order of the graph."""
    readers, known = consumers(model), constants(model)
    inferred = onnx.shape_inference.infer_shapes(model)
    floats = {i.name for i in inferred.graph.value_info if i.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    names = []
    if target != "tensorrt" and reads_uint8(model) is None:
        names.append("scaled")
    for node in between(model, "scaled", "features"):
        output = node.output[0]
        after = readers.get(output, [])
        if output not in floats and output != "features":
            continue
        if target == "tensorrt":
            if any(reader.op_type == "Conv" for reader in after) and output != "features":
                names.append(output)
        elif not _absorbs(after, known):
            names.append(output)
    return names


def _absorbs(after: list[onnx.NodeProto], known: dict[str, surgery.Array]) -> bool:
    """Whether what follows is computed together with the operator before it, or is the pool's border."""
    if len(after) != 1:
        return False
    return after[0].op_type == "Relu" or _is_border(after[0]) or _clips_to_constants(after[0], known)


def _is_border(node: onnx.NodeProto) -> bool:
    return node.op_type == "Max" and len(node.input) == 2 and node.input[1].endswith(".border")


def _clips_to_constants(node: onnx.NodeProto, known: dict[str, surgery.Array]) -> bool:
    return node.op_type == "Clip" and all(name in known for name in node.input[1:] if name)


@dataclass(frozen=True)
class ActivationStatistics:
    """What calibration saw of the activations, and how it is used.

    Attributes:
        observed: ranges of ``quantised_tensors``.
        method: how a range is cut.
        means: of ``ranges.channel_means``, to correct the biases; empty leaves them.
    """

    observed: dict[str, Observed]
    method: Method
    means: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Layout:
    """What differs between targets in a quantised graph."""

    quantise_bias: bool
    skip: frozenset[str]
    half_scales: bool = False
    input_scale: Scale | None = None
    uint8_pool: bool = False


def to_int8(
    model: onnx.ModelProto,
    target: Target,
    statistics: ActivationStatistics,
    weight_bits: int,
    *,
    half_scales: bool = False,
) -> onnx.ModelProto:
    """Quantise a graph of ``prepare_int8`` in the layout of a target.

    Args:
        model: see ``prepare_int8``.
        target: ``onnxruntime``, ``tensorrt`` or ``openvino``.
        statistics: ranges and means of the activations.
        weight_bits: 7 or 8.
        half_scales: take scales that float16 holds exactly, for ``float16.to_fp16`` afterwards.
    """
    means = statistics.means
    choose = unsigned if target != "tensorrt" else signed_half if half_scales else signed
    scales: dict[str, Scale] = {name: choose(seen, statistics.method) for name, seen in statistics.observed.items()}
    if target == "tensorrt":
        first = {node.name for node in consumers(model).get("scaled", []) if node.op_type == "Conv"}
        layout = _Layout(quantise_bias=False, skip=frozenset({*first, HEAD}), half_scales=half_scales)
        return _insert(model, scales, weight_bits, means, layout)
    scales = residual_scales.without_ties(model, _shared_where_numbers_stay(model, scales), frozenset(SAME_NUMBERS))
    input_scale = reads_uint8(model)
    if input_scale is not None:
        model = _uint8_front(model, input_scale)
        # The first convolution reads raw pixels; what its bias takes over is exact, and its rounding is small.
        means = {name: mean for name, mean in means.items() if name != "scaled"}
    layout = _Layout(
        quantise_bias=True, skip=frozenset({HEAD}), input_scale=input_scale, uint8_pool=target == "onnxruntime"
    )
    return _insert(model, scales, weight_bits, means, layout)


def reads_uint8(model: onnx.ModelProto) -> Scale | None:
    """How the first convolution can read the raw uint8 pixels: x - 117 or x - 128, the rest goes to its bias.

    None where something else than one plain convolution reads them, or where the means of the channels lie so far
    apart that no whole number stands for all three.
    """
    readers = consumers(model).get("scaled", [])
    maker = next((node for node in model.graph.node if "scaled" in node.output), None)
    if maker is None or len(readers) != 1 or readers[0].op_type != "Conv":
        return None
    mean = _pixel_mean(model, maker)
    if mean is None:
        return None
    zero_point = int(np.clip(np.rint(np.median(mean)), 0, 255))
    return Scale(np.float32(1.0), np.uint8(zero_point)) if np.abs(mean - zero_point).max() <= MOST_LEFT else None


def _pixel_mean(model: onnx.ModelProto, maker: onnx.NodeProto) -> npt.NDArray[np.float64] | None:
    """What is subtracted from each channel of the pixels, and nothing else done to them; None otherwise."""
    if maker.op_type == "Transpose":
        return np.zeros(3)
    mean = constants(model).get(maker.input[1]) if maker.op_type == "Sub" else None
    return mean.reshape(-1).astype(np.float64) if mean is not None and mean.size == 3 else None


def _uint8_front(model: onnx.ModelProto, input_scale: Scale) -> onnx.ModelProto:
    """Drop Cast and Sub: the first convolution reads uint8 with a zero point, its bias takes what is left of the mean.

    Exact inside; at the zero-padded border the remainder (at most ``MOST_LEFT`` grey levels) is seen as if it were
    image, an error below int8's own that parity measures.
    """
    model = surgery.copy(model)
    known = constants(model)
    first = next(node for node in model.graph.node if "scaled" in node.input)
    mean = _pixel_mean(model, next(node for node in model.graph.node if "scaled" in node.output))
    assert mean is not None
    left = mean - float(input_scale.zero_point)
    bias = known[first.input[2]].astype(np.float64) if len(first.input) > 2 else np.zeros(len(known[first.input[1]]))
    bias = bias - np.einsum("ocij,c->o", known[first.input[1]].astype(np.float64), left)
    name = add_constant(model, f"{first.name}.bias", bias.astype(np.float32))
    first.input[:] = ["scaled", first.input[1], name]
    kept = [node for node in model.graph.node if node.output[0] not in ("images.float", "images.nchw", "scaled")]
    front = helper.make_node("Transpose", ["images"], ["images.nchw"], name="images.nchw", perm=[0, 3, 1, 2])
    surgery.replace_nodes(model, [front, *kept])
    return model


def _shared_where_numbers_stay(model: onnx.ModelProto, scales: dict[str, Scale]) -> dict[str, Scale]:
    """What a max-pool or a reshaping gives lies on the grid of its input: one scale for both, so that it runs in int8.

    The pool behind the padding is MaxPool -> Max; only the ends of that pair are quantised.
    """
    shared = dict(scales)
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        source = makers[node.input[0]].input[0] if _is_border(node) else node.input[0]
        if (node.op_type in SAME_NUMBERS or _is_border(node)) and source in shared and node.output[0] in shared:
            shared[node.output[0]] = shared[source]
    return shared


class _Quantiser:
    """Builds a QDQ graph node by node."""

    def __init__(
        self, model: onnx.ModelProto, scales: dict[str, Scale], weight_bits: int, *, half_scales: bool
    ) -> None:
        self.model = surgery.copy(model)
        self.known = constants(model)
        self.scales = scales
        self.weight_bits = weight_bits
        self.half_scales = half_scales
        self.nodes: list[onnx.NodeProto] = []
        self.real: dict[str, str] = {}

    def parameters(self, name: str, scale: Scale) -> list[str]:
        """Initializers of scale and zero point."""
        zero = np.asarray(scale.zero_point, type(scale.zero_point))
        return [
            add_constant(self.model, f"{name}.scale", np.asarray(scale.scale, np.float32)),
            add_constant(self.model, f"{name}.zero", zero),
        ]

    def quantise(self, name: str) -> None:
        """QuantizeLinear and DequantizeLinear behind a tensor; its readers get the dequantised one."""
        scale = self.scales[name]
        self.nodes.append(
            helper.make_node(
                "QuantizeLinear", [name, *self.parameters(name, scale)], [f"{name}.q"], name=f"{name}.quantise"
            )
        )
        self.dequantise(f"{name}.q", name, scale)

    def dequantise(self, quantised: str, name: str, scale: Scale) -> None:
        """DequantizeLinear only."""
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [quantised, *self.parameters(name, scale)],
                [f"{name}.dq"],
                name=f"{name}.dequantise",
            )
        )
        self.real[name] = f"{name}.dq"

    def convolution(
        self, node: onnx.NodeProto, quantise_bias: bool, input_scale: Scale, means: npt.NDArray[np.float64] | None
    ) -> None:
        """Quantise the weight per channel, correct the bias, and quantise it on the grid of the accumulator."""
        base = node.name
        weight, weight_scale = quantised_weight(
            self.known[node.input[1]], self.weight_bits, half_scales=self.half_scales
        )
        zero = np.zeros(len(weight), np.int8)
        names = [
            add_constant(self.model, f"{base}.weight.q", weight),
            add_constant(self.model, f"{base}.weight.scale", weight_scale),
            add_constant(self.model, f"{base}.weight.zero", zero),
        ]
        self.nodes.append(
            helper.make_node("DequantizeLinear", names, [f"{base}.weight.dq"], name=f"{base}.weight.dequantise", axis=0)
        )
        inputs = [self.real.get(node.input[0], node.input[0]), f"{base}.weight.dq"]
        restored = weight.astype(np.float64) * weight_scale.astype(np.float64).reshape(-1, 1, 1, 1)
        bias = self.known[node.input[2]] if len(node.input) > 2 else None
        bias = corrected_bias(self.known[node.input[1]], restored, bias, means)
        if bias is not None and quantise_bias:
            grid = weight_scale.astype(np.float64) * float(input_scale.scale)
            whole = np.clip(np.rint(bias / grid), -(2**31) + 1, 2**31 - 1).astype(np.int32)
            names = [
                add_constant(self.model, f"{base}.bias.q", whole),
                add_constant(self.model, f"{base}.bias.scale", grid.astype(np.float32)),
                add_constant(self.model, f"{base}.bias.zero", np.zeros(len(whole), np.int32)),
            ]
            self.nodes.append(
                helper.make_node("DequantizeLinear", names, [f"{base}.bias.dq"], name=f"{base}.bias.dequantise", axis=0)
            )
            inputs.append(f"{base}.bias.dq")
        elif bias is not None:
            inputs.append(add_constant(self.model, f"{base}.bias", bias))
        twin = onnx.NodeProto.FromString(node.SerializeToString())
        twin.input[:] = inputs
        self.nodes.append(twin)

    def pool_in_uint8(self, conv: str, pool: onnx.NodeProto, maximum: onnx.NodeProto, shape: list[int]) -> None:
        """Pad with the zero point and pool, both on uint8 (``conv`` is already quantised).

        A padding constant that is not zero cannot be merged into a pool by any fusion; the zero point of a tensor
        with negative values never is.
        """
        scale = self.scales[conv]
        if int(scale.zero_point) == 0:
            raise ModelError(
                f"{conv} gives no negative value on any crop, as no trained first layer does. Calibrate on other crops "
                "(--calibration), or choose --precision fp16 or fp32."
            )
        pads = attribute(pool, "pads")
        name = maximum.output[0]
        begin_end = add_constant(
            self.model, f"{name}.pads", np.asarray([0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]], np.int64)
        )
        fill = add_constant(self.model, f"{name}.fill", np.asarray(scale.zero_point, np.uint8))
        self.nodes.append(
            helper.make_node("Pad", [f"{conv}.q", begin_end, fill], [f"{name}.padded"], name=f"{name}.pad")
        )
        self.nodes.append(
            helper.make_node(
                "MaxPool",
                [f"{name}.padded"],
                [f"{name}.q"],
                name=pool.name,
                kernel_shape=shape,
                strides=attribute(pool, "strides"),
            )
        )
        self.dequantise(f"{name}.q", name, scale)


def _insert(
    model: onnx.ModelProto,
    scales: dict[str, Scale],
    weight_bits: int,
    means: dict[str, npt.NDArray[np.float64]],
    layout: _Layout,
) -> onnx.ModelProto:
    build = _Quantiser(model, scales, weight_bits, half_scales=layout.half_scales)
    paired = {n.input[0]: n for n in model.graph.node if _is_border(n)} if layout.uint8_pool else {}
    pools = {n.output[0]: n for n in model.graph.node if n.op_type == "MaxPool" and n.output[0] in paired}
    where = dict(scales)
    for node in model.graph.node:
        output = node.output[0]
        if output in pools:
            continue
        if layout.uint8_pool and _is_border(node):
            pool = pools[node.input[0]]
            build.pool_in_uint8(pool.input[0], pool, node, list(attribute(pool, "kernel_shape")))
            continue
        if node.op_type == "Conv" and node.name not in layout.skip:
            on = where.get(node.input[0], Scale(np.float32(1), np.uint8(0)))
            build.convolution(node, layout.quantise_bias, on, means.get(node.input[0]))
        else:
            twin = onnx.NodeProto.FromString(node.SerializeToString())
            twin.input[:] = [build.real.get(name, name) for name in node.input]
            build.nodes.append(twin)
        if output == "images.nchw" and layout.input_scale is not None:
            # The pixels are uint8 already: DequantizeLinear alone makes them the quantised input of conv1.
            build.dequantise(output, "scaled", layout.input_scale)
            where["scaled"] = layout.input_scale
        elif output in scales:
            build.quantise(output)
    surgery.replace_nodes(build.model, build.nodes)
    return surgery.prune(build.model)
