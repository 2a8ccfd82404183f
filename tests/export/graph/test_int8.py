"""float16 and int8: types, layouts, exact arithmetic of scales, and the answer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from glomedge.errors import GateError
from glomedge.model.spec import InputScaling, Target
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.data.export_crops import CalibrationCrops
from glomedge_export.graph import convert, float16, int8, ranges, surgery
from glomedge_export.graph.lower import WEIGHT_BITS, LoweringInputs, lower, runner_for
from glomedge_export.graph.ranges import Observed
from glomedge_export.graph.run import OnnxRunner, OpenvinoRunner, Runner
from helpers.needs import needs_openvino

Head = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
Crops = npt.NDArray[np.uint8]


@pytest.fixture
def fp32(backbone: onnx.ModelProto, tiny_head: Head) -> onnx.ModelProto:
    return convert.assemble(backbone, "resnet", *tiny_head).model


def logits(run: Runner, crops: Crops) -> npt.NDArray[np.float64]:
    return np.asarray(maps(run, crops).astype(np.float64).mean((1, 2)))


def maps(run: Runner, crops: Crops) -> npt.NDArray[np.float32]:
    activation = run(crops)[1]
    assert activation is not None
    return activation


def lowered(fp32: onnx.ModelProto, target: Target, crops: Crops, method: str = "minmax") -> onnx.ModelProto:
    calibration = CalibrationCrops(crops, tuple(f"{i}.png" for i in range(len(crops))), 2)
    return lower(fp32, "int8", target, LoweringInputs(crops, calibration, method)).model


def test_fp16_is_strongly_typed_with_float_outputs(fp32: onnx.ModelProto) -> None:
    halved = convert.check(float16.to_fp16(fp32))
    types = {t.name: t.data_type for t in halved.graph.initializer}
    kept = {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT}
    assert kept == {"images.mean", "head.weight", "head.bias"}
    assert surgery.op_counts(halved)["Cast"] == surgery.op_counts(fp32)["Cast"] + 2


def test_fp16_answer_and_emulation(fp32: onnx.ModelProto, crops_nhwc: Crops) -> None:
    reference = OnnxRunner(fp32.SerializeToString())
    emulated = runner_for(float16.to_fp16(fp32), "fp16", "tensorrt")
    difference = np.abs(emulated(crops_nhwc)[0] - reference(crops_nhwc)[0]).max()
    assert 0 < difference < 5e-3


def test_emulation_overflows_where_float16_does(fp32: onnx.ModelProto, crops_nhwc: Crops) -> None:
    """The file itself hides it on a CPU, where it is computed in float32."""
    halved = float16.to_fp16(fp32)
    surgery.add_constant(halved, "a.weight", surgery.constants(halved)["a.weight"] * np.float16(20_000))
    on_cpu = maps(OnnxRunner(halved.SerializeToString()), crops_nhwc)
    emulated = maps(runner_for(halved, "fp16", "tensorrt"), crops_nhwc)
    assert np.isfinite(on_cpu).all()
    assert not np.isfinite(emulated).all()


def test_fp16_overflow_is_refused_by_layer_name(fp32: onnx.ModelProto, crops_nhwc: Crops) -> None:
    worst, reach = float16.check_fp16_range(fp32, crops_nhwc)
    assert worst in {node.name for node in fp32.graph.node}
    assert 0 < reach < float16.FP16_MAX
    surgery.add_constant(fp32, "b.weight", surgery.constants(fp32)["b.weight"] * np.float32(1e6))
    with pytest.raises(GateError, match=r"layer b reaches .* beyond float16"):
        float16.check_fp16_range(fp32, crops_nhwc)
    with pytest.raises(GateError, match="layer b has a weight of"):
        float16.to_fp16(fp32)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt", "openvino"])
@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_int8_answer(fp32: onnx.ModelProto, crops_nhwc: Crops, target: Target, method: str) -> None:
    reference = logits(OnnxRunner(fp32.SerializeToString()), crops_nhwc)
    model = lowered(fp32, target, crops_nhwc, method)
    if target == "openvino":
        needs_openvino()
    answer = logits(runner_for(model, "int8", target), crops_nhwc)
    spread = np.ptp(reference)
    assert spread > 0.2
    assert np.abs(answer - reference).max() < 0.25 * spread


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_x86_layout(fp32: onnx.ModelProto, crops_nhwc: Crops, target: Target) -> None:
    model = lowered(fp32, target, crops_nhwc)
    counts = surgery.op_counts(model)
    # uint8 goes straight in, BatchNormalization has become depthwise, nothing is subtracted in float.
    assert "Cast" not in counts
    assert "Sub" not in counts
    assert "BatchNormalization" not in counts
    known = surgery.constants(model)
    activations = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert {known[n.input[2]].dtype.name for n in activations} == {"uint8"}
    weights = [value for name, value in known.items() if name.endswith(".weight.q")]
    assert {w.dtype.name for w in weights} == {"int8"}
    # 7 bits: two products of uint8 and weight fit the 16-bit sums of processors without VNNI.
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) == 63
    assert 255 * 63 * 2 < 2**15 <= 255 * 127 * 2
    # onnxruntime before 1.32 wants scalars for activations.
    assert {known[n.input[i]].shape for n in activations for i in (1, 2)} == {()}
    scales = [known[f"{name.removesuffix('.q')}.scale"] for name in known if name.endswith(".weight.q")]
    assert all(scale.ndim == 1 for scale in scales)


def test_tensorrt_layout_is_symmetric_and_signed(fp32: onnx.ModelProto, crops_nhwc: Crops) -> None:
    model = lowered(fp32, "tensorrt", crops_nhwc)
    known = surgery.constants(model)
    zeros = [known[n.input[2]] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert zeros
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    # Residual sums stay in floating point: only inputs of convolutions are quantised.
    readers = surgery.consumers(model)
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            assert {reader.op_type for reader in readers[node.output[0]]} <= {"Conv", "BatchNormalization", "Add"}
    assert "sum.q" not in {name for node in model.graph.node for name in node.output}


def test_tensorrt_int8_is_float16_between_convolutions(fp32: onnx.ModelProto, crops_nhwc: Crops) -> None:
    """Strongly typed: every scale is float16 and exact, and what judges the file rounds where float16 does."""
    model = lowered(fp32, "tensorrt", crops_nhwc)
    assert model.opset_import[0].version == float16.OPSET_OF_HALF_SCALES
    known = surgery.constants(model)
    scales = [known[n.input[1]] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {scale.dtype.name for scale in scales} == {"float16"}
    assert all((scale > 0).all() and np.isfinite(scale).all() for scale in scales)
    kept = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    assert kept == {"images.mean", "head.weight", "head.bias"}
    judge = runner_for(model, "int8", "tensorrt")
    assert "float16 rounding emulated" in judge.name
    # The scales were chosen on float16's grid: in float32 between the convolutions the answer is nearly the same.
    tensors = int8.quantised_tensors(fp32, "tensorrt")
    seen = ranges.observe(fp32, tensors, crops_nhwc)
    means = ranges.channel_means(fp32, crops_nhwc)
    wide = int8.to_int8(fp32, "tensorrt", int8.ActivationStatistics(seen, "minmax", means), WEIGHT_BITS["tensorrt"])
    difference = np.abs(logits(judge, crops_nhwc) - logits(runner_for(wide, "int8", "tensorrt"), crops_nhwc)).max()
    assert 0 < difference < 0.02


def test_tensorrt_int8_stays_float32_where_float16_would_overflow(fp32: onnx.ModelProto, crops_nhwc: Crops) -> None:
    """A layer of 1e5 between convolutions, undone by the weights of the next ones."""
    for name, factor in (("bn1.sum.scale", 1e5), ("bn1.sum.shift", 1e5), ("short.weight", 1e-5), ("a.weight", 1e-5)):
        surgery.add_constant(fp32, name, surgery.constants(fp32)[name] * np.float32(factor))
    reference = logits(OnnxRunner(fp32.SerializeToString()), crops_nhwc)
    calibration = CalibrationCrops(crops_nhwc, tuple(f"{i}.png" for i in range(len(crops_nhwc))), 2)
    result = lower(fp32, "int8", "tensorrt", LoweringInputs(crops_nhwc, calibration, "minmax"))
    assert result.notes["calibration"]["between_convolutions"] == "float32"
    assert not float16.has_fp16(result.model)
    answer = logits(runner_for(result.model, "int8", "tensorrt"), crops_nhwc)
    assert np.abs(answer - reference).max() < 0.25 * np.ptp(reference)


def test_int8_answers_alike_with_and_without_integer_kernels(fp32: onnx.ModelProto, crops_nhwc: Crops) -> None:
    """7-bit weights: this processor's integer kernels say what exact arithmetic says."""
    model = lowered(fp32, "onnxruntime", crops_nhwc).SerializeToString()
    fused = logits(OnnxRunner(model), crops_nhwc)
    exact = logits(OnnxRunner(model, literal=True), crops_nhwc)
    np.testing.assert_allclose(fused, exact, atol=0.05)
    assert WEIGHT_BITS == {"onnxruntime": 7, "openvino": 7, "tensorrt": 8}


@pytest.mark.parametrize("scaling", ["resnet", "resnet_v2"])
def test_uint8_front_is_exact_inside(
    backbone: onnx.ModelProto, tiny_head: Head, crops_nhwc: Crops, scaling: InputScaling
) -> None:
    fp32 = convert.assemble(backbone, scaling, *tiny_head).model
    scale = int8.reads_uint8(fp32)
    assert scale is not None
    assert int(scale.zero_point) == {"resnet": 117, "resnet_v2": 128}[scaling]
    front = surgery.prune(int8._uint8_front(int8.prepare_int8(fp32, "onnxruntime"), scale))
    known = surgery.constants(front)
    weight, bias = known["conv1.weight"].astype(np.float64), known["conv1_conv.bias"].astype(np.float64)
    patch = crops_nhwc[0, 50:57, 60:67].astype(np.float64).transpose(2, 0, 1)
    by_zero_point = np.einsum("ocij,cij->o", weight, patch - float(scale.zero_point)) + bias
    original = surgery.constants(fp32)
    by_mean = np.einsum(
        "ocij,cij->o", original["conv1.weight"].astype(np.float64), patch - original["images.mean"].reshape(3, 1, 1)
    )
    np.testing.assert_allclose(by_zero_point, by_mean, rtol=1e-5, atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 3), st.just(2), st.just(2)),
               elements=st.floats(-1e3, 1e3, width=32)),
    st.sampled_from([7, 8]),
)  # fmt: skip
def test_quantised_weight_against_naive(weight: npt.NDArray[np.float32], bits: int) -> None:
    quantised, scales = ranges.quantised_weight(weight, bits)
    most = 2 ** (bits - 1) - 1
    for channel, values in enumerate(weight):
        reach = max(abs(float(v)) for v in values.reshape(-1))
        assert np.abs(quantised[channel].astype(int)).max() <= most
        restored = quantised[channel].astype(np.float64) * scales[channel]
        naive = np.rint(values / max(reach / most, 1e-30)) * (reach / most)
        # Cutting may cost one weight more, never the channel as a whole.
        assert np.square(restored - values).sum() <= np.square(naive - values).sum() * 1.001 + 1e-9 * reach**2 + 1e-30
        assert np.abs(restored - values).max() <= max(reach, 1e-30) * 0.41


@pytest.mark.parametrize(("low", "high", "zero"), [(0.0, 5.1, 0), (-1.0, 1.0, 128), (-2.0, -1.0, 255), (1.0, 2.0, 0)])
def test_unsigned_scale_keeps_zero_exact(low: float, high: float, zero: int) -> None:
    scale = ranges.unsigned(Observed(low, high, np.zeros(ranges.BINS, np.int64)), "minmax")
    assert abs(int(scale.zero_point) - zero) <= 1
    for value in (low, high):
        restored = (np.clip(round(value / float(scale.scale)) + int(scale.zero_point), 0, 255)
                    - int(scale.zero_point)) * float(scale.scale)  # fmt: skip
        assert abs(restored - value) <= float(scale.scale) * 1.01


def test_entropy_cuts_a_lone_outlier_and_keeps_a_flat_histogram() -> None:
    values = np.abs(np.random.default_rng(0).normal(0, 1, 100_000))
    counts, _ = np.histogram(values, ranges.BINS, (0, 40.0))
    counts[-1] += 1
    seen = Observed(0.0, 40.0, counts)
    assert 3.0 < ranges.cut(seen, "entropy") < 8.0
    assert 3.0 < ranges.cut(seen, "percentile") < 6.0
    assert ranges.cut(seen, "minmax") == 40.0
    flat = Observed(0.0, 1.0, np.full(ranges.BINS, 50))
    assert ranges.cut(flat, "entropy") > 0.9


def test_observe_against_naive(fp32: onnx.ModelProto, crops_nhwc: Crops) -> None:
    ort = import_onnxruntime()

    names = int8.quantised_tensors(fp32, "tensorrt")
    assert names
    shown = ranges.with_outputs(fp32, names, extremes=False)
    values = ort.InferenceSession(shown.SerializeToString()).run(None, {"images": crops_nhwc})
    seen = ranges.observe(fp32, names, crops_nhwc)
    for name, value in zip(names, values, strict=True):
        assert seen[name].low == pytest.approx(float(value.min()), abs=1e-4)
        assert seen[name].high == pytest.approx(float(value.max()), rel=1e-4)
        assert seen[name].counts.sum() > 0


def test_auto_keeps_the_method_with_the_least_error(fp32: onnx.ModelProto, crops_nhwc: Crops) -> None:
    calibration = CalibrationCrops(crops_nhwc, tuple(f"{i}.png" for i in range(8)), 2)
    result = lower(fp32, "int8", "onnxruntime", LoweringInputs(crops_nhwc, calibration, "auto"))
    tried = result.notes["calibration"]["mean_logit_error_by_method"]
    assert set(tried) == set(ranges.METHODS)
    assert result.calibration is not None
    assert tried[result.calibration.method] == min(tried.values())
    assert result.calibration.names_sha256 == calibration.names_sha256


@pytest.mark.parametrize("depthwise", [False, True])
def test_corrected_bias_gives_the_mean_back(depthwise: bool) -> None:
    """Against the mean of a really computed convolution (1x1, so that no border disturbs)."""
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 3, (6, 5, 9, 9))
    weight = rng.normal(0, 1, (5, 1 if depthwise else 5, 1, 1)).astype(np.float32)
    restored = np.round(weight.astype(np.float64) * 3) / 3
    bias = rng.normal(0, 1, 5).astype(np.float32)
    corrected = ranges.corrected_bias(weight, restored, bias, x.mean((0, 2, 3)))
    assert corrected is not None

    def mean_output(kernel: npt.NDArray[np.float64], offset: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        y = (
            x * kernel[:, 0, 0, 0][None, :, None, None]
            if depthwise
            else np.einsum("ncij,oc->noij", x, kernel[:, :, 0, 0])
        )
        return np.asarray(y.mean((0, 2, 3)) + offset)

    exact = mean_output(weight.astype(np.float64), bias)
    assert np.abs(mean_output(restored, bias) - exact).max() > 1e-2
    np.testing.assert_allclose(mean_output(restored, corrected), exact, atol=1e-5)


def test_channel_means_against_naive(fp32: onnx.ModelProto, crops_nhwc: Crops) -> None:
    ort = import_onnxruntime()

    means = ranges.channel_means(fp32, crops_nhwc)
    shown = ranges.with_outputs(fp32, list(means), extremes=False)
    values = ort.InferenceSession(shown.SerializeToString()).run(None, {"images": crops_nhwc})
    assert "scaled" in means
    for mean, value in zip(means.values(), values, strict=True):
        np.testing.assert_allclose(mean, value.astype(np.float64).mean((0, 2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.openvino
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_openvino_takes_the_files_meant_for_it(fp32: onnx.ModelProto, crops_nhwc: Crops, kind: str) -> None:
    needs_openvino()
    model = {
        "fp32": lambda: fp32,
        "fp16": lambda: float16.to_fp16(fp32),
        "int8": lambda: lowered(fp32, "openvino", crops_nhwc),
    }[kind]()
    reference = logits(OnnxRunner(fp32.SerializeToString()), crops_nhwc)
    answer = logits(OpenvinoRunner(model.SerializeToString()), crops_nhwc)
    tolerance = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.25 * float(np.ptp(reference))}[kind]
    np.testing.assert_allclose(answer, reference, atol=tolerance)
