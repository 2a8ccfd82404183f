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
from glomedge.model.spec import InputScaling, Target
from glomedge_export.graph import surgery
from glomedge_export.graph.convert import IMAGENET_MEAN_RGB
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


def prepare_int8(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """The float32 graph in the form that is quantised for a target (still float32, still exact)."""
    if target == "tensorrt":
        return surgery.copy(model)
    return surgery.depthwise_from_batchnorm(model)


def quantised_tensors(model: onnx.ModelProto, target: Target) -> list[str]:
    """The tensors whose ranges must be known, in the order of the graph."""
    readers = consumers(model)
    names = []
    for node in between(model, "scaled", "features"):
        output = node.output[0]
        after = [reader.op_type for reader in readers.get(output, [])]
        if target == "tensorrt":
            if any(op == "Conv" for op in after) and output != "features":
                names.append(output)
        elif after != ["Relu"] and after != ["Max"]:
            names.append(output)
    return names


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
    input_scaling: InputScaling,
    weight_bits: int,
    *,
    half_scales: bool = False,
) -> onnx.ModelProto:
    """Quantise a graph of ``prepare_int8`` in the layout of a target.

    Args:
        model: see ``prepare_int8``.
        target: ``onnxruntime``, ``tensorrt`` or ``openvino``.
        statistics: ranges and means of the activations.
        input_scaling: of the model; decides scale and zero point of the uint8 input.
        weight_bits: 7 or 8.
        half_scales: take scales that float16 holds exactly, for ``float16.to_fp16`` afterwards.
    """
    means = statistics.means
    choose = unsigned if target != "tensorrt" else signed_half if half_scales else signed
    scales: dict[str, Scale] = {name: choose(seen, statistics.method) for name, seen in statistics.observed.items()}
    if target == "tensorrt":
        layout = _Layout(quantise_bias=False, skip=frozenset({"conv1_conv", HEAD}), half_scales=half_scales)
        return _insert(model, scales, weight_bits, means, layout)
    scales = _shared_through_pools(model, scales)
    prepared = _uint8_front(model, input_scaling)
    return _insert(
        prepared,
        scales,
        weight_bits,
        # The first convolution reads raw pixels; what its bias takes over is exact, and its rounding is small.
        {name: mean for name, mean in means.items() if name != "scaled"},
        _Layout(
            quantise_bias=True,
            skip=frozenset({HEAD}),
            input_scale=_input_scale(input_scaling),
            uint8_pool=target == "onnxruntime",
        ),
    )


def _input_scale(input_scaling: InputScaling) -> Scale:
    """How the raw uint8 pixels are read: (x - 117) or (x - 128) / 127.5; the rest goes to the bias."""
    if input_scaling == "resnet":
        return Scale(np.float32(1.0), np.uint8(117))
    return Scale(np.float32(1.0), np.uint8(128))


def _uint8_front(model: onnx.ModelProto, input_scaling: InputScaling) -> onnx.ModelProto:
    """Drop Cast and Sub: the first convolution reads uint8 with a zero point, its bias takes what is left of the mean.

    Exact inside; at the zero-padded border the remainder (at most 13 grey levels) is seen as if it were image, an
    error below int8's own that parity measures.
    """
    model = surgery.copy(model)
    known = constants(model)
    first = next(node for node in model.graph.node if "scaled" in node.input)
    mean = np.asarray(IMAGENET_MEAN_RGB if input_scaling == "resnet" else (127.5,) * 3, np.float64)
    left = mean - float(_input_scale(input_scaling).zero_point)
    bias = known[first.input[2]].astype(np.float64) if len(first.input) > 2 else np.zeros(len(known[first.input[1]]))
    bias = bias - np.einsum("ocij,c->o", known[first.input[1]].astype(np.float64), left)
    name = add_constant(model, f"{first.name}.bias", bias.astype(np.float32))
    first.input[:] = ["scaled", first.input[1], name]
    kept = [node for node in model.graph.node if node.output[0] not in ("images.float", "images.nchw", "scaled")]
    front = helper.make_node("Transpose", ["images"], ["images.nchw"], name="images.nchw", perm=[0, 3, 1, 2])
    surgery.replace_nodes(model, [front, *kept])
    return model


def _shared_through_pools(model: onnx.ModelProto, scales: dict[str, Scale]) -> dict[str, Scale]:
    """A max-pool's result lies on the grid of its input: give both one scale, so that the pool runs in int8."""
    shared = dict(scales)
    for node in model.graph.node:
        if node.op_type in ("MaxPool", "Max") and node.input[0] in shared:
            shared[node.output[0]] = shared[node.input[0]]
    # The pool behind the padding is MaxPool -> Max; only the ends of that pair are quantised.
    for node in model.graph.node:
        if node.op_type == "Max":
            pool = next(other for other in model.graph.node if other.output[0] == node.input[0])
            if pool.input[0] in shared:
                shared[node.output[0]] = shared[pool.input[0]]
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
            raise ModelError(f"{conv} has no negative value, which no trained first layer has. Train the model again.")
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
    paired = {n.input[0]: n for n in model.graph.node if n.op_type == "Max"} if layout.uint8_pool else {}
    pools = {n.output[0]: n for n in model.graph.node if n.op_type == "MaxPool" and n.output[0] in paired}
    where = dict(scales)
    for node in model.graph.node:
        output = node.output[0]
        if output in pools:
            continue
        if layout.uint8_pool and node.op_type == "Max":
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
