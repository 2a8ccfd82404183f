"""The real network, converted: it says what ``model.predict`` says, and each runtime takes the files meant for it.

The small networks of tests/export show the layouts; only the real one has every shape, and NVIDIA's builder may
refuse one of 54 convolutions that it takes elsewhere. Both are in one file, for its conversion takes half a minute.

Runs against whatever onnxruntime is installed, every optimisation on; CI and docs/export.md run it on
onnxruntime 1.32 and on onnxruntime-gpu 1.31.1, whose Pad_Fusion computes the plain conversion wrongly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from glomedge.model.spec import BatchProfile, Precision, RecipeName, Target
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.data.export_crops import CalibrationCrops
from glomedge_export.graph import float16, surgery
from glomedge_export.graph.lower import LoweringInputs, lower
from glomedge_export.graph.run import OnnxRunner, OpenvinoRunner, Runner
from glomedge_export.proof import tensorrt
from glomedge_export.proof.keras import keras_answers
from helpers.needs import needs_openvino
from helpers.parity_pair import Pair

ort = import_onnxruntime()

pytestmark = pytest.mark.keras
RESNET = pytest.mark.parametrize("pair", ["resnet"], indirect=True)
Enhanced = dict[RecipeName, npt.NDArray[np.uint8]]
Lower = Callable[[Precision, Target], onnx.ModelProto]


def answer(pair: Pair, images: npt.NDArray[np.uint8], batch: int) -> tuple[npt.NDArray[np.float32], ...]:
    session = ort.InferenceSession(pair.onnx_model.SerializeToString(), providers=["CPUExecutionProvider"])
    parts = [
        session.run(["probability", "activation"], {"images": images[start : start + batch]})
        for start in range(0, len(images), batch)
    ]
    return np.concatenate([p for p, _ in parts])[:, 0], np.concatenate([a for _, a in parts])


def test_statistics_are_not_trivial(pair: Pair) -> None:
    """Zero beta or unit variance would hide the padding trap."""
    from glomedge_export.network.network import backbone_of, batch_norms

    for layer in batch_norms(backbone_of(pair.keras_model)):
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            values = np.asarray(getattr(layer, name))
            assert values.std() > 0
            assert np.abs(values).max() > 1e-3


@pytest.mark.parametrize("recipe", ["seed", "published", "plain"])
def test_fp32_against_keras(pair: Pair, enhanced: Enhanced, recipe: RecipeName) -> None:
    images = enhanced[recipe]
    reference = keras_answers(pair.keras_model, images)
    assert reference.logit is not None
    spread = np.ptp(reference.probability)
    if recipe == "seed":
        assert spread > 0.3
    # A saturated sigmoid would hide any difference.
    assert (np.abs(reference.logit) < 12).any()
    # A batch size is one question to the graph, the recipe one to the pixels.
    for batch in (1, 7, 32) if recipe == "seed" else (32,):
        probability, activation = answer(pair, images, batch)
        assert np.abs(probability - reference.probability).max() <= 1e-5
        np.testing.assert_array_equal(probability >= 0.5, reference.probability >= 0.5)
        mean = activation.astype(np.float64).mean((1, 2))
        assert (np.abs(mean - reference.logit) / np.maximum(np.abs(reference.logit), 1)).max() <= 1e-4


@RESNET
def test_plain_predict_is_the_reference(pair: Pair, enhanced: Enhanced) -> None:
    """``keras_answers`` looks inside the model for the logit; its probability is that of ``predict`` itself."""
    images = enhanced["seed"][:4]
    plain = pair.keras_model.predict(images.astype(np.float32), verbose=0)[:, 0]
    np.testing.assert_allclose(keras_answers(pair.keras_model, images).probability, plain, atol=1e-6)


def test_operators_of_the_real_network(pair: Pair) -> None:
    counts = surgery.op_counts(pair.onnx_model)
    assert counts["Conv"] == 54
    assert counts["BatchNormalization"] == 17
    assert counts["Relu"] == 49
    assert counts["MaxPool"] == 4
    assert counts["Max"] == 1
    assert "Pad" not in counts
    assert "Mul" not in counts
    assert surgery.multiply_adds(pair.onnx_model) == 3_480_307_712


@pytest.mark.openvino
def test_openvino_agrees(pair: Pair, enhanced: Enhanced) -> None:
    needs_openvino()
    reference = keras_answers(pair.keras_model, enhanced["seed"][:8])
    probability, _ = OpenvinoRunner(pair.onnx_model.SerializeToString())(enhanced["seed"][:8])
    assert np.abs(probability - reference.probability).max() <= 2e-5


@pytest.fixture
def lowered(pair: Pair, enhanced: Enhanced) -> Lower:
    images = enhanced["seed"][::4]
    calibration = CalibrationCrops(images, tuple(f"{i}.png" for i in range(len(images))), 2)

    def make(precision: Precision, target: Target) -> onnx.ModelProto:
        return lower(pair.onnx_model, precision, target, LoweringInputs(images, calibration, "minmax")).model

    return make


def error(pair: Pair, run: Runner, images: npt.NDArray[np.uint8]) -> float:
    """Mean |error| of the logit against float32 on crops that calibration did not see."""
    reference = OnnxRunner(pair.onnx_model.SerializeToString())
    said, right = run(images)[1], reference(images)[1]
    assert said is not None
    assert right is not None
    return float(np.abs(said.mean((1, 2)) - right.mean((1, 2))).mean())


@RESNET
@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_parses_and_builds(lowered: Lower, precision: Precision) -> None:
    pytest.importorskip("tensorrt_rtx", reason="NVIDIA's parser is not installed: pip install tensorrt-rtx")
    model = lowered(precision, "any" if precision == "fp32" else "tensorrt")
    assert float16.has_fp16(model) == (precision != "fp32")
    found, engine = tensorrt.check(model.SerializeToString(), BatchProfile(min=1, opt=4, max=8))
    tensorrt.enforce(found)
    assert found.layers > 100
    assert (found.subgraphs, found.nodes_elsewhere) == (1, 0)
    assert engine is not None
    # float32 weights take 94 MB; the engine holds those of the precision that was asked for.
    most = {"fp32": 110e6, "fp16": 60e6, "int8": 45e6}[precision]
    assert 10e6 < len(engine) < most


@RESNET
def test_fp32_for_onnxruntime_is_as_near_to_keras_as_the_plain_file(
    pair: Pair, enhanced: Enhanced, lowered: Lower
) -> None:
    model = lowered("fp32", "onnxruntime")
    # The 13 convolutions of 3x3 with stride 1, each taken apart into 16 products.
    assert sum(name.endswith(".winograd.weight00") for name in surgery.constants(model)) == 13
    images = enhanced["seed"][1::4]
    logits = np.asarray(keras_answers(pair.keras_model, images, 1.0).probability, np.float64)
    plain, tiled = (
        np.abs(OnnxRunner(m.SerializeToString())(images)[0] - logits).max() for m in (pair.onnx_model, model)
    )
    assert plain < 1e-5
    assert tiled < 1e-5


@RESNET
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_int8_runs_on_the_integer_kernels_it_was_made_for(
    pair: Pair, enhanced: Enhanced, lowered: Lower, target: Target
) -> None:
    if target == "openvino":
        needs_openvino()
    data = lowered("int8", target).SerializeToString()
    run = OpenvinoRunner(data) if target == "openvino" else OnnxRunner(data)
    # Weights that were never trained magnify every rounding: of logits with standard deviation 1, not a third.
    assert 0 < error(pair, run, enhanced["seed"][1::8]) < 0.35


@RESNET
@pytest.mark.openvino
def test_fp16_runs_on_openvino_and_onnxruntime(pair: Pair, enhanced: Enhanced, lowered: Lower) -> None:
    needs_openvino()
    data = lowered("fp16", "openvino").SerializeToString()
    for run in (OpenvinoRunner(data), OnnxRunner(data)):
        assert error(pair, run, enhanced["seed"][1::8]) < 0.02
