"""Networks of others: what their graphs show, and the file's graph against their own framework."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from glomedge.errors import ModelError, UsageError
from glomedge.imaging.enhance import enhance
from glomedge.model.scaling import NAMED, Scaling
from glomedge.model.spec import Precision, Recipe, Target
from glomedge_export.data.export_crops import CalibrationCrops
from glomedge_export.graph import surgery
from glomedge_export.graph.anatomy import Choices, missing
from glomedge_export.graph.convert import Converted
from glomedge_export.graph.lower import LoweringInputs, lower, runner_for
from glomedge_export.graph.run import OnnxRunner, logits_runner
from helpers.needs import needs_openvino

pytestmark = pytest.mark.keras
Images = npt.NDArray[np.uint8]
MODULES = ("keras", "tf_keras")


@pytest.fixture(scope="module")
def images() -> Images:
    """uint8 ``[16, 64, 64, 3]``."""
    from glomedge.engine.golden import draw_crop

    recipe = Recipe.named("published").model_copy(update={"size_px": 64})
    return np.stack([enhance(draw_crop(seed), recipe) for seed in range(16)])


def framework(name: str) -> Any:
    pytest.importorskip("tensorflow", reason="needs the extra glomedge[export]")
    from glomedge_export.frameworks import import_tf_keras, keras

    return keras if name == "keras" else import_tf_keras()


def surveyed(model: Any, module: Any) -> Any:
    from glomedge_export.graph.foreign import survey
    from helpers.foreign_models import loaded

    return survey(loaded(module, model))


def converted(model: Any, module: Any, choices: Choices) -> Converted:
    from glomedge_export.graph.foreign import convert_foreign

    found = surveyed(model, module)
    assert missing(found.outside, choices) == []
    return convert_foreign(found, choices)[0]


FRONTS = {
    "resnet": "resnet",
    "resnet_v2": "resnet_v2",
    "rescaling": "resnet_v2",
    "augmented": "resnet_v2",
    "padded": "resnet_v2",
    "unit": "unit",
    "divided": "unit",
    "torch": "torch",
    "densenet": "torch",
    "normalised": "torch",
    "batch_norm": "affine",
}


@pytest.mark.parametrize(
    ("name", "front"), [*(("keras", front) for front in FRONTS), ("tf_keras", "resnet"), ("tf_keras", "augmented")]
)
def test_the_scaling_inside_a_model_is_found(name: str, front: str) -> None:
    from helpers.foreign_models import small

    module = framework(name)
    model = small(module, front)
    for layer in model.layers:
        if layer.name == "pixels_bn":
            layer.set_weights([np.array(v, np.float32) for v in ([1, 2, 3], [0, 1, -1], [100, 120, 90], [9, 16, 25])])
    scaling = surveyed(model, module).outside.front.scaling
    assert scaling is not None
    assert scaling.name == FRONTS[front]
    if front == "batch_norm":
        np.testing.assert_allclose(
            scaling.affine.scale, np.array([1, 2, 3]) / np.sqrt([9.001, 16.001, 25.001]), rtol=1e-5
        )
        offset = np.array([0, 1, -1]) - np.array([100, 120, 90]) * np.array(scaling.affine.scale)
        np.testing.assert_allclose(scaling.affine.offset, offset, rtol=1e-5)


def test_a_scaling_behind_a_resizing_stays_where_it_is() -> None:
    from helpers.foreign_models import small

    module = framework("keras")
    outside = surveyed(small(module, "resized"), module).outside
    assert outside.front.scaling is None
    assert outside.front.behind_resizing == Scaling.named("resnet_v2")
    assert outside.front.known == Scaling.named("none")
    assert missing(outside, Choices()) == []
    with pytest.raises(UsageError, match=r"scales its pixels itself \(resnet_v2\)"):
        missing(outside, Choices("unit"))


@pytest.mark.parametrize(
    ("front", "reason"), [("squared", "is not a factor and a summand"), ("swapped", "mixes the colour channels")]
)
def test_a_front_that_no_file_can_carry_is_refused(front: str, reason: str) -> None:
    from helpers.foreign_models import small

    module = framework("keras")
    with pytest.raises(ModelError, match=reason):
        surveyed(small(module, front), module)


@pytest.mark.parametrize(
    ("head", "ending"), [("tanh", "Tanh over 1 number"), ("two_sigmoids", "Sigmoid over 2 numbers")]
)
def test_an_output_that_is_no_probability_is_refused(head: str, ending: str) -> None:
    from helpers.foreign_models import small

    module = framework("keras")
    with pytest.raises(ModelError, match=f"ends in {ending}"):
        surveyed(small(module, head=head), module)


def _average(module: Any, x: Any) -> Any:
    return module.layers.Average()([module.layers.Dense(1, activation="sigmoid")(x) for _ in range(2)])


def _mean_of_softmax(module: Any, x: Any) -> Any:
    first, second = (module.layers.Dense(2, activation="softmax")(x) for _ in range(2))
    return module.layers.Add()([first, second]) / 2.0


def _turned_round(module: Any, x: Any) -> Any:
    return 1.0 - module.layers.Dense(1, activation="sigmoid")(x)


@pytest.mark.parametrize(
    ("activation", "operation"), [("gelu", "Erf"), ("mish", "Tanh"), ("hard_silu", "Clip|Min|Max")]
)
def test_an_activation_that_is_written_out_as_arithmetic_gives_no_logit(activation: str, operation: str) -> None:
    module = framework("keras")
    images = module.Input((64, 64, 3))
    x = module.layers.GlobalAveragePooling2D()(module.layers.Conv2D(4, 3)(images / 255.0))
    with pytest.raises(ModelError, match=f"activation with ({operation})"):
        surveyed(module.Model(images, module.layers.Dense(1, activation=activation)(x)), module)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    ("ending", "activation"), [(_average, "Sigmoid"), (_mean_of_softmax, "Softmax"), (_turned_round, "Sigmoid")]
)
def test_arithmetic_over_probabilities_is_no_logit(name: str, ending: Any, activation: str) -> None:
    module = framework(name)
    images = module.Input((64, 64, 3))
    x = module.layers.GlobalAveragePooling2D()(module.layers.Conv2D(4, 3)(images / 255.0))
    with pytest.raises(ModelError, match=f"combines probabilities.*{activation}.*one Dense layer"):
        surveyed(module.Model(images, ending(module, x)), module)


def test_a_sum_of_logits_is_a_logit_whatever_gates_lie_before_its_layers() -> None:
    module = framework("keras")
    images = module.Input((64, 64, 3))
    x = module.layers.GlobalAveragePooling2D()(module.layers.Conv2D(4, 3, activation="sigmoid")(images / 255.0))
    total = module.layers.Add()([module.layers.Dense(1)(x), module.layers.Dense(1)(x)])
    assert surveyed(module.Model(images, total), module).outside.output.kind == "linear"


def test_what_the_graph_does_not_show_must_be_said_and_nothing_else() -> None:
    from helpers.foreign_models import small

    module = framework("keras")
    bare = surveyed(small(module, "none", "two_logits"), module).outside
    wanted = missing(bare, Choices())
    assert [line.split()[0] for line in wanted] == ["--input-scaling", "--logits", "--positive-class"]
    assert missing(bare, Choices("unit", True, 0)) == []
    full = surveyed(small(module), module).outside
    assert missing(full, Choices()) == []
    for said, why in (
        (Choices(input_scaling="resnet"), "scales its pixels itself"),
        (Choices(logits=True), "ends in sigmoid"),
        (Choices(positive_class=0), "gives one number"),
    ):
        with pytest.raises(UsageError, match=why):
            missing(full, said)


@pytest.mark.parametrize("name", MODULES)
def test_a_model_of_whole_numbers_takes_no_scaling_from_outside(images: Images, name: str) -> None:
    from helpers.foreign_models import settle, small

    module = framework(name)
    model = settle(module, small(module, "bytes_unscaled"), images)
    outside = surveyed(model, module).outside
    (wanted,) = missing(outside, Choices())
    assert wanted.startswith("--input-scaling none (")
    with pytest.raises(UsageError, match=r"whole numbers.*--input-scaling none") as caught:
        missing(outside, Choices("unit"))
    assert len(str(caught.value)) < 500
    made = converted(model, module, Choices("none"))
    probability, _ = OnnxRunner(made.model.SerializeToString())(images)
    assert np.abs(probability - right(model, "sigmoid", images.astype(np.float32), 0)).max() <= 1e-5


def right(model: Any, head: str, pixels: npt.NDArray[np.float32], positive: int) -> npt.NDArray[np.float64]:
    """The probability of the positive class by the model's own ``predict``."""
    said = np.asarray(model.predict(pixels, verbose=0), np.float64)
    if head in ("logit", "two_logits"):
        difference = said[:, positive] - said[:, 1 - positive] if said.shape[1] == 2 else said[:, 0]
        return np.asarray(1 / (1 + np.exp(-difference)))
    return np.asarray(said[:, positive] if said.shape[1] == 2 else said[:, 0])


STRUCTURES = [
    ("keras", "resnet_v2", "sigmoid", "residual"),
    ("keras", "none", "softmax", "residual"),
    ("keras", "resnet", "two_logits", "mobile"),
    ("keras", "none", "logit", "mobile"),
    ("keras", "normalised", "linear_layers", "efficient"),
    ("keras", "unit", "hidden", "dense"),
    ("keras", "torch", "hidden_softmax", "residual"),
    ("keras", "resnet_v2", "flat", "residual"),
    ("keras", "resnet_v2", "max", "dense"),
    ("keras", "padded", "convolution", "dense"),
    ("keras", "resized", "sigmoid", "mobile"),
    ("keras", "bytes", "sigmoid", "residual"),
    ("keras", "normalised", "sigmoid", "convnext"),
    ("tf_keras", "augmented", "sigmoid", "efficient"),
    ("tf_keras", "bytes", "sigmoid", "mobile"),
    ("tf_keras", "resnet_v2", "sigmoid", "convnext"),
    ("tf_keras", "none", "softmax", "dense"),
]
NO_MAP = ("hidden", "hidden_softmax", "flat", "max")


@pytest.mark.parametrize(("name", "front", "head", "body"), STRUCTURES)
def test_every_structure_says_what_its_framework_says(
    images: Images, name: str, front: str, head: str, body: str
) -> None:
    from helpers.foreign_models import settle, small

    module = framework(name)
    pixels = images.astype(np.float32)
    pixels = Scaling.named("resnet").applied(pixels) if front == "none" else pixels
    model = settle(module, small(module, front, head, body=body), pixels)
    positive = 0 if head == "softmax" else 1
    two = model.output_shape[1] == 2
    choices = Choices("resnet" if front == "none" else None, "logit" in head, positive if two else None)  # type: ignore[arg-type]  # 0 or 1
    made = converted(model, module, choices)
    reference = right(model, head, pixels, positive)
    assert np.ptp(reference) > 0.1
    probability, activation = OnnxRunner(made.model.SerializeToString())(images)
    assert np.abs(probability - reference).max() <= 1e-5
    assert made.backbone == "other"
    assert made.side_px == 64
    if head in NO_MAP:
        assert made.map_cells is None
        assert activation is None
        assert [output.name for output in made.model.graph.output] == ["probability"]
    else:
        assert activation is not None
        assert activation.shape[1:] == (made.map_cells, made.map_cells)
        np.testing.assert_allclose(1 / (1 + np.exp(-activation.astype(np.float64).mean((1, 2)))), reference, atol=1e-5)
    inner = logits_runner(made.model)(images)
    np.testing.assert_allclose(1 / (1 + np.exp(-inner)), probability, atol=1e-6)


def test_our_own_surgery_is_done_to_a_network_like_ours(images: Images) -> None:
    """The published structure comes out with the operators of our own export: nothing is left of tf2onnx."""
    from helpers.foreign_models import settle, small

    module = framework("keras")
    made = converted(settle(module, small(module), images), module, Choices())
    counts = surgery.op_counts(made.model)
    assert counts == {
        "Add": 1, "BatchNormalization": 2, "Cast": 1, "Conv": 6, "Max": 1, "MaxPool": 1, "ReduceMean": 1, "Relu": 4,
        "Sigmoid": 1, "Squeeze": 1, "Sub": 1, "Transpose": 1,
    }  # fmt: skip
    names = [node.name for node in made.model.graph.node]
    assert "conv1_conv" in names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("body", ["mobile", "efficient", "dense"])
def test_padding_and_batch_norm_go_into_the_convolutions_of_other_networks(images: Images, body: str) -> None:
    from helpers.foreign_models import settle, small

    module = framework("keras")
    counts = surgery.op_counts(converted(settle(module, small(module, body=body), images), module, Choices()).model)
    assert "Pad" not in counts
    assert "Max" not in counts
    assert "Shape" not in counts
    assert counts.get("BatchNormalization", 0) == {"mobile": 0, "efficient": 0, "dense": 2}[body]


LOWERED: list[tuple[Precision, Target]] = [
    ("fp32", "onnxruntime"),
    ("fp16", "tensorrt"),
    ("int8", "onnxruntime"),
    ("int8", "tensorrt"),
    ("int8", "openvino"),
]


@pytest.mark.parametrize(("front", "head", "body"), [
    ("resnet_v2", "sigmoid", "residual"),
    ("resnet", "hidden", "mobile"),
    ("normalised", "sigmoid", "efficient"),
    ("unit", "flat", "dense"),
    ("resized", "sigmoid", "residual"),
])  # fmt: skip
def test_every_precision_of_other_networks_answers_near_float32(
    images: Images, front: str, head: str, body: str
) -> None:
    from helpers.foreign_models import settle, small

    module = framework("keras")
    fp32 = converted(settle(module, small(module, front, head, body=body), images), module, Choices()).model
    right_logit = logits_runner(fp32)(images)
    calibration = CalibrationCrops(images, tuple(f"{i}.png" for i in range(len(images))), 2)
    for precision, target in LOWERED:
        if target == "openvino":
            needs_openvino()
        made = lower(fp32, precision, target, LoweringInputs(images, calibration, "minmax")).model
        probability = np.clip(runner_for(made, precision, target)(images)[0].astype(np.float64), 1e-6, 1 - 1e-6)
        error = np.abs(np.log(probability / (1 - probability)) - right_logit).max()
        most = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.5}[precision]
        assert error <= most * np.ptp(right_logit), (precision, target)
        if precision == "int8":
            quantised = [n for n in made.graph.node if n.op_type == "DequantizeLinear" and ".weight" in n.name]
            assert len(quantised) >= surgery.op_counts(fp32)["Conv"] - 2


def test_named_scalings_do_what_keras_does() -> None:
    module = framework("keras")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.float32)
    own: dict[str, Any] = {
        "resnet": module.applications.resnet.preprocess_input,
        "resnet_v2": module.applications.resnet_v2.preprocess_input,
        "torch": module.applications.densenet.preprocess_input,
        "unit": module.layers.Rescaling(1 / 255),
        "none": lambda x: x,
    }
    assert own.keys() == NAMED.keys()
    for name, keras_own in own.items():
        expected = np.asarray(keras_own(pixels.copy()))
        np.testing.assert_allclose(Scaling.named(name).applied(pixels), expected, rtol=2e-6, atol=2e-5)  # type: ignore[arg-type]
        assert Scaling.of(NAMED[name]).name == name  # type: ignore[index]


def test_a_shape_computed_from_the_batch_is_settled() -> None:
    from glomedge_export.graph.whole import settle_shapes

    helper = onnx.helper
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["x", "wanted"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 2, 3])],
        [helper.make_tensor_value_info("y", 1, ["N", 6])],
        [onnx.numpy_helper.from_array(np.array([v], np.int64), n) for n, v in (("first", 0), ("rest", 6))],
    )
    settled = settle_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert surgery.op_counts(settled) == {"Reshape": 1}
    assert surgery.constants(settled)[settled.graph.node[0].input[1]].tolist() == [-1, 6]
