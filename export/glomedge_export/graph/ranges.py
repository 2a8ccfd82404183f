"""Ranges of activations, and how a range becomes a scale and a zero point.

Quantisation is affine: real = scale * (quantised - zero point), ONNX QuantizeLinear. Three ways to choose a range:
``minmax`` keeps every value, ``percentile`` cuts the farthest 0.01% off, ``entropy`` takes the cut whose quantised
histogram has the least Kullback-Leibler divergence from the true one (Migacz, "8-bit inference with TensorRT",
GTC 2017). ``auto`` tries the three and keeps the one with the least error of the logit, on calibration crops only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.graph import surgery
from glomedge_export.graph.run import Images
from glomedge_export.progress import Progress, silent

Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile")
BINS = 2048
PERCENTILE = 99.99
# Histograms need no more: the count of a bin is then known to a few percent, and counting stays a few seconds.
HISTOGRAM_CROPS = 64
HISTOGRAM_VALUES_PER_CROP = 20_000
BATCH = 4
# A few large weights cut off buy finer steps for all others; 1 cuts nothing.
WEIGHT_CUTS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6)


@dataclass(frozen=True)
class Observed:
    """What one tensor was seen to hold.

    Attributes:
        low: least value over all crops.
        high: greatest value over all crops.
        counts: int64 ``[BINS]``, histogram of |value| from 0 to ``reach``; empty where not taken.
    """

    low: float
    high: float
    counts: npt.NDArray[np.int64]

    @property
    def reach(self) -> float:
        """The greatest absolute value."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class Scale:
    """Affine quantisation of one tensor. ``zero_point`` has the dtype of the quantised tensor."""

    scale: np.float32
    zero_point: np.uint8 | np.int8


def with_outputs(model: onnx.ModelProto, names: Sequence[str], *, extremes: bool) -> onnx.ModelProto:
    """The same graph whose outputs are these tensors, or only their least and greatest value (``extremes``)."""
    model = surgery.copy(model)
    del model.graph.output[:]
    nodes = list(model.graph.node)
    for index, name in enumerate(names):
        if not extremes:
            model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
            continue
        for operator in ("ReduceMin", "ReduceMax"):
            result = f"observed.{operator}.{index}"
            nodes.append(helper.make_node(operator, [name], [result], keepdims=0))
            model.graph.output.append(helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, []))
    surgery.replace_nodes(model, nodes)
    return surgery.prune(model)


def session(model: onnx.ModelProto) -> Any:
    """An onnxruntime session on the CPU for any graph."""
    ort = import_onnxruntime()

    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def extremes(
    model: onnx.ModelProto, names: Sequence[str], images_nhwc: Images, progress: Progress = silent
) -> dict[str, tuple[float, float]]:
    """Least and greatest value of each tensor over all crops (reduced inside the graph)."""
    running = session(with_outputs(model, names, extremes=True))
    seen = np.empty((0, 2 * len(names)))
    for start in range(0, len(images_nhwc), BATCH):
        values = running.run(None, {"images": np.ascontiguousarray(images_nhwc[start : start + BATCH])})
        seen = np.vstack([seen, np.asarray(values, np.float64).reshape(1, -1)])
        progress("calibrating ranges", min(start + BATCH, len(images_nhwc)), len(images_nhwc))
    low, high = seen[:, 0::2].min(0), seen[:, 1::2].max(0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}


def observe(
    model: onnx.ModelProto, names: Sequence[str], images_nhwc: Images, progress: Progress = silent
) -> dict[str, Observed]:
    """Extremes over all crops, and a histogram of |value| over up to 64 of them, evenly picked."""
    reached = extremes(model, names, images_nhwc, progress)
    running = session(with_outputs(model, names, extremes=False))
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    picked = np.unique(np.linspace(0, len(images_nhwc) - 1, min(HISTOGRAM_CROPS, len(images_nhwc))).astype(int))
    for done, index in enumerate(picked, 1):
        values = running.run(None, {"images": np.ascontiguousarray(images_nhwc[index : index + 1])})
        for name, value in zip(names, values, strict=True):
            flat = np.abs(value.reshape(-1)[:: max(1, value.size // HISTOGRAM_VALUES_PER_CROP)])
            reach = max(*(abs(side) for side in reached[name]), 1e-12)
            bins = np.minimum((flat * (BINS / reach)).astype(np.int64), BINS - 1)
            counts[name] += np.bincount(bins, minlength=BINS)
        progress("calibrating histograms", done, len(picked))
    return {name: Observed(*reached[name], counts[name]) for name in names}


def channel_means(
    model: onnx.ModelProto, images_nhwc: Images, progress: Progress = silent
) -> dict[str, npt.NDArray[np.float64]]:
    """Mean of every channel of every tensor that a convolution reads, float64 ``[C]``, over up to 64 crops."""
    names = list(dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type == "Conv"))
    reduced = surgery.copy(model)
    del reduced.graph.output[:]
    for index, name in enumerate(names):
        result = f"observed.mean.{index}"
        reduced.graph.node.append(helper.make_node("ReduceMean", [name], [result], axes=[0, 2, 3], keepdims=0))
        reduced.graph.output.append(helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None))
    running = session(surgery.prune(reduced))
    picked = np.unique(np.linspace(0, len(images_nhwc) - 1, min(HISTOGRAM_CROPS, len(images_nhwc))).astype(int))
    sums: list[Any] = [0.0] * len(names)
    for done, index in enumerate(picked, 1):
        values = running.run(None, {"images": np.ascontiguousarray(images_nhwc[index : index + 1])})
        sums = [old + new for old, new in zip(sums, values, strict=True)]
        progress("calibrating means", done, len(picked))
    return {name: np.asarray(total, np.float64) / len(picked) for name, total in zip(names, sums, strict=True)}


def corrected_bias(
    weight: npt.NDArray[np.float32],
    restored: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float32] | None,
    means: npt.NDArray[np.float64] | None,
) -> npt.NDArray[np.float32] | None:
    """The bias that gives back what rounding the weights takes from the mean of each output channel.

    E[W' x] - E[W x] = (W' - W) E[x]; bias correction of Nagel et al., "Data-free quantization through weight
    equalization and bias correction", ICCV 2019, with E[x] measured on calibration crops. At the zero-padded border
    slightly too much is given back.

    Args:
        weight: float32 ``[O, I, H, W]``.
        restored: the quantised weight as real numbers, same shape.
        bias: float32 ``[O]`` or None.
        means: E[x] of each input channel of the tensor, or None to correct nothing.
    """
    if means is None:
        return bias
    error = (restored - weight.astype(np.float64)).sum((2, 3))
    # Each group of output channels reads its own group of input channels.
    groups = len(means) // error.shape[1]
    shift = np.einsum("goi,gi->go", error.reshape(groups, -1, error.shape[1]), means.reshape(groups, -1)).reshape(-1)
    start = bias.astype(np.float64) if bias is not None else np.zeros(len(weight))
    return np.asarray(start - shift, np.float32)


def cut(observed: Observed, method: Method) -> float:
    """The absolute value at which a tensor is cut off."""
    reach = observed.reach
    if method == "minmax" or not observed.counts.sum():
        return reach
    if method == "percentile":
        share = np.cumsum(observed.counts) / observed.counts.sum()
        return float((np.searchsorted(share, PERCENTILE / 100.0) + 1) * reach / BINS)
    return float(entropy_bins(observed.counts) * reach / BINS)


def entropy_bins(counts: npt.NDArray[np.int64], levels: int = 128) -> int:
    """How many bins to keep so that the quantised histogram diverges least from the true one.

    Args:
        counts: ``[BINS]`` of |value|. Bin 0 (mostly exact zeros behind ReLU) is left out of the comparison, as
            TensorRT does: zero is exact in every quantisation.
        levels: of the quantised absolute value.
    """
    histogram = counts.astype(np.float64)
    histogram[0] = histogram[1] if len(histogram) > 1 else histogram[0]
    best, best_divergence = len(histogram), np.inf
    for keep in range(levels, len(histogram) + 1, 16):
        true = histogram[:keep].copy()
        true[-1] += histogram[keep:].sum()
        kept = histogram[:keep]
        level = np.minimum(np.arange(keep) * levels // keep, levels - 1)
        filled = (kept > 0).astype(np.float64)
        total = np.bincount(level, kept, levels)
        width = np.bincount(level, filled, levels)
        spread = np.divide(total, width, out=np.zeros(levels), where=width > 0)[level] * filled
        if not spread.sum() or not true.sum():
            continue
        p, q = true / true.sum(), spread / spread.sum()
        # A bin with true mass but no quantised mass (the cut-off tail in an empty bin) costs much, not infinity.
        mask = p > 0
        divergence = float(np.sum(p[mask] * np.log(p[mask] / np.maximum(q[mask], 1e-12))))
        if divergence < best_divergence:
            best, best_divergence = keep, divergence
    return best


def unsigned(observed: Observed, method: Method) -> Scale:
    """uint8 with a zero point; zero is exact. A tensor that is never negative gets zero point 0."""
    limit = cut(observed, method)
    low, high = max(min(observed.low, 0.0), -limit), min(max(observed.high, 0.0), limit)
    scale = max((high - low) / 255.0, 1e-12)
    return Scale(np.float32(scale), np.uint8(np.clip(round(-low / scale), 0, 255)))


def signed(observed: Observed, method: Method) -> Scale:
    """int8, symmetric about zero point 0: what TensorRT takes."""
    return Scale(np.float32(max(cut(observed, method) / 127.0, 1e-12)), np.int8(0))


def signed_half(observed: Observed, method: Method) -> Scale:
    """``signed`` with a scale that float16 holds exactly."""
    return Scale(np.float32(half_representable(np.asarray(cut(observed, method) / 127.0))), np.int8(0))


def half_representable(scales: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The nearest numbers that float16 holds, at least 2**-20.

    Chosen before anything is rounded on their grid, such scales cost nothing; rounded afterwards they would be off.
    """
    return np.maximum(scales, 2.0**-20).astype(np.float16).astype(np.float64)


def quantised_weight(
    weight: npt.NDArray[np.float32], bits: int, *, half_scales: bool = False
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8 weights with one scale per output channel: of a few cuts the one with the least squared error.

    Args:
        weight: ``[O, I, H, W]``.
        bits: 8 uses -127..127; 7 uses -63..63, so that two products of uint8 and weight always fit the 16-bit
            sums of processors without VNNI (255 * 63 * 2 = 32,130 < 32,767).
        half_scales: choose among scales that float16 holds exactly.

    Returns:
        int8 ``[O, I, H, W]`` and float32 scales ``[O]``.
    """
    most = 2 ** (bits - 1) - 1
    flat = weight.reshape(len(weight), -1)
    reach = np.abs(flat).max(1, keepdims=True).astype(np.float64)
    # A channel of zeros (pruned, dead) keeps a harmless scale; no cut of another rounds to a scale of zero.
    whole = np.where(reach > 0, np.maximum(reach / most, 2.0 * np.finfo(np.float32).tiny), 1.0)
    best, best_error = whole, np.full_like(whole, np.inf)
    # One float32 buffer for all cuts: 24 million weights eight times over are most of the time of quantising.
    error = np.empty_like(flat)
    for share in WEIGHT_CUTS:
        scale = (half_representable(whole * share) if half_scales else whole * share).astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            np.rint(np.divide(flat, scale, out=error), out=error)
            np.subtract(np.clip(error, -most, most, out=error) * scale, flat, out=error)
            squares = np.square(error, out=error).sum(1, keepdims=True, dtype=np.float64)
        best, best_error = np.where(squares < best_error, scale, best), np.fmin(squares, best_error)
    quantised = np.clip(np.rint(flat.astype(np.float64) / best), -most, most).astype(np.int8)
    return quantised.reshape(weight.shape), best[:, 0].astype(np.float32)
