"""Each runtime takes the files of the real network that are meant for it, and answers near float32.

The small networks of tests/export show the layouts; only the real one has every shape, and NVIDIA's builder may
refuse one of 54 convolutions that it takes elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from glomedge.model.spec import BatchProfile, Precision, RecipeName, Target
from glomedge_export.data.export_crops import CalibrationCrops
from glomedge_export.graph import float16, surgery
from glomedge_export.graph.lower import LoweringInputs, lower
from glomedge_export.graph.run import OnnxRunner, OpenvinoRunner, Runner
from glomedge_export.proof import tensorrt
from glomedge_export.proof.keras import keras_answers
from helpers.needs import needs_openvino
from helpers.parity_pair import Pair

pytestmark = [pytest.mark.keras, pytest.mark.parametrize("pair", ["resnet"], indirect=True)]
Enhanced = dict[RecipeName, npt.NDArray[np.uint8]]
Lower = Callable[[Precision, Target], onnx.ModelProto]


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


@pytest.mark.openvino
def test_fp16_runs_on_openvino_and_onnxruntime(pair: Pair, enhanced: Enhanced, lowered: Lower) -> None:
    needs_openvino()
    data = lowered("fp16", "openvino").SerializeToString()
    for run in (OpenvinoRunner(data), OnnxRunner(data)):
        assert error(pair, run, enhanced["seed"][1::8]) < 0.02
