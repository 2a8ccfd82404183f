"""The float32 file says what ``model.predict`` says, on enhanced pixels, at every batch size.

Runs against whatever onnxruntime is installed, every optimisation on; CI and docs/export.md run it on
onnxruntime 1.32 and on onnxruntime-gpu 1.31.1, whose Pad_Fusion computes the plain conversion wrongly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.model.spec import RecipeName
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.graph import surgery
from glomedge_export.proof.keras import keras_answers
from helpers.needs import needs_openvino
from helpers.parity_pair import Pair

ort = import_onnxruntime()

pytestmark = pytest.mark.keras
Enhanced = dict[RecipeName, npt.NDArray[np.uint8]]


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


@pytest.mark.parametrize("pair", ["resnet"], indirect=True)
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
    from glomedge_export.graph.run import OpenvinoRunner

    reference = keras_answers(pair.keras_model, enhanced["seed"][:8])
    probability, _ = OpenvinoRunner(pair.onnx_model.SerializeToString())(enhanced["seed"][:8])
    assert np.abs(probability - reference.probability).max() <= 2e-5
