"""The large networks of keras.applications, whole: every precision and target of each, near their own framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import glomedge
from glomedge.engine.golden import draw_crop
from glomedge.imaging.enhance import enhance
from glomedge.model.spec import Precision, Recipe, Target
from glomedge_export.data.export_crops import CalibrationCrops, drawn
from glomedge_export.export import Request, export
from glomedge_export.export_source.source import Said
from glomedge_export.graph import surgery
from glomedge_export.graph.convert import Converted
from glomedge_export.graph.lower import LoweringInputs, lower, runner_for
from glomedge_export.graph.run import logits_runner
from helpers.published_script import published_answers

pytestmark = [pytest.mark.keras, pytest.mark.slow]
# Side of the input and cells of the map.
NETWORKS = {
    "ResNet50V2": (224, 7),
    "ResNet50": (224, 7),
    "InceptionV3": (299, 8),
    "EfficientNetV2B0": (224, 7),
    "DenseNet121": (224, 7),
    "MobileNetV2": (224, 7),
}
# Of a logit of standard deviation 1: mean error. Weights that were never trained magnify every rounding.
MOST: dict[Precision, float] = {"fp32": 1e-4, "fp16": 0.03, "int8": 0.5}
LOWERED: list[tuple[Precision, Target]] = [
    ("fp32", "onnxruntime"),
    ("fp16", "tensorrt"),
    ("int8", "onnxruntime"),
    ("int8", "tensorrt"),
    ("int8", "openvino"),
]


def crops(recipe: Recipe, seeds: range) -> npt.NDArray[np.uint8]:
    return np.stack([enhance(draw_crop(seed), recipe) for seed in seeds])


def saved(path: Path, module: Any, network: str) -> Path:
    from helpers.foreign_models import published, settle

    side_px = NETWORKS[network][0]
    recipe = Recipe.named("published").model_copy(update={"size_px": side_px})
    # Statistics of the crops that the gates draw: on others a network that was not trained may answer one thing only.
    settle(module, published(module, network, side_px=side_px), drawn(recipe).images_nhwc[::3]).save(path)
    return path


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_of_keras_applications_exports_in_every_precision(tmp_path: Path, network: str) -> None:
    pytest.importorskip("tensorflow", reason="needs the extra glomedge[export]")
    from glomedge_export.frameworks import keras

    side_px, cells = NETWORKS[network]
    model = saved(tmp_path / "model.keras", keras, network)
    conversions: dict[str, Converted] = {}
    result = export(Request(model, said=Said("published")), conversions=conversions)
    spec = result.spec
    assert (spec.backbone, spec.map, spec.map_cells, spec.input.side_px) == (network.lower(), "exact", cells, side_px)
    assert spec.parity is not None
    assert spec.parity.max_probability_difference <= 1e-5
    assert spec.parity.probability_spread > 0.1
    with glomedge.load(result.path, provider="cpu") as engine:
        (answer,) = engine.predict(draw_crop(3))
    assert answer.probability is not None
    (made,) = conversions.values()
    calibration = CalibrationCrops(drawn(spec.recipe, 32, 1).images_nhwc, tuple(f"{i}.png" for i in range(32)), 8)
    compared = drawn(spec.recipe, 32, 2).images_nhwc
    right = logits_runner(made.model)(compared)
    errors = {}
    for precision, target in LOWERED:
        lowered = lower(made.model, precision, target, LoweringInputs(compared, calibration, "minmax")).model
        probability = np.clip(runner_for(lowered, precision, target)(compared)[0].astype(np.float64), 1e-7, 1 - 1e-7)
        errors[precision, target] = float(np.abs(np.log(probability / (1 - probability)) - right).mean())
    print(network, {f"{p} {t}": f"{e:.2g}" for (p, t), e in errors.items()}, surgery.op_counts(made.model))
    for (precision, target), error in errors.items():
        assert error <= MOST[precision], (precision, target, error)


@pytest.mark.parametrize("module_name", ["keras", "tf_keras"])
def test_the_published_network_answers_as_its_own_script_does(tmp_path: Path, module_name: str) -> None:
    """Sixty drawn crops, decoded and enhanced by either side on its own, predicted one at a time by Keras."""
    pytest.importorskip("tensorflow", reason="needs the extra glomedge[export]")
    from glomedge_export.frameworks import import_tf_keras, keras
    from glomedge_export.synthetic.dataset import write_dataset

    module = keras if module_name == "keras" else import_tf_keras()
    model = saved(tmp_path / "best_model.keras", module, "ResNet50V2")
    result = export(Request(model, said=Said("published")))
    assert result.spec.backbone == "resnet50v2"
    assert result.report["operators"]["Conv"] == 54
    write_dataset(tmp_path / "data", crops=60, cases=6, seed=11)
    paths = sorted((tmp_path / "data").rglob("*.png"))
    (tmp_path / "enhanced").mkdir()
    right = published_answers(module.models.load_model(model, compile=False), paths, tmp_path / "enhanced")
    assert np.ptp(right) > 0.1
    with glomedge.load(result.path, provider="cpu") as engine:
        said = engine.predict(paths)
    probabilities = np.array([one.probability for one in said], np.float64)
    assert np.abs(probabilities - right).max() <= 1e-5
    assert [one.label for one in said] == (right >= 0.5).astype(int).tolist()


def test_the_published_network_becomes_the_graph_of_our_own(tmp_path: Path) -> None:
    """Same operators as the export of a model of ``glomedge train``, in float32 and in int8 for each target."""
    pytest.importorskip("tensorflow", reason="needs the extra glomedge[export]")
    from glomedge_export.frameworks import keras
    from glomedge_export.graph.anatomy import Choices
    from glomedge_export.graph.convert import convert
    from glomedge_export.graph.foreign import convert_foreign, survey
    from helpers.foreign_models import loaded, published, settle
    from helpers.keras_networks import realistic_network

    images = crops(Recipe.named("published"), range(16))
    own = convert(realistic_network("resnet_v2", images))
    theirs, _ = convert_foreign(survey(loaded(keras, settle(keras, published(keras), images))), Choices())
    assert surgery.op_counts(theirs.model) == surgery.op_counts(own.model)
    assert surgery.multiply_adds(theirs.model) == surgery.multiply_adds(own.model) == 3_480_307_712
    calibration = CalibrationCrops(images, tuple(f"{i}.png" for i in range(len(images))), 2)
    for precision, target in LOWERED:
        counts = [
            surgery.op_counts(lower(one.model, precision, target, LoweringInputs(images, calibration, "minmax")).model)
            for one in (own, theirs)
        ]
        assert counts[0] == counts[1], (precision, target)
