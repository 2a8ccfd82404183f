"""The network is the document's: what is frozen, what augments, how pixels are scaled, how it is saved and loaded."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.errors import ModelError, UsageError

keras = pytest.importorskip("keras", reason="needs TensorFlow: pip install 'glomedge[export]'")
pytestmark = pytest.mark.keras

from glomedge_export.network import network  # noqa: E402
from glomedge_export.training import batch_norm  # noqa: E402
from glomedge_export.training.optimizer import build, make_optimizer  # noqa: E402


@pytest.fixture(scope="module")
def images() -> npt.NDArray[np.uint8]:
    """Four smooth pictures, uint8 [4, 224, 224, 3], not symmetric under any flip."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (4, 7, 7, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(32, 1).repeat(32, 2))


@pytest.fixture(scope="module")
def model(images: npt.NDArray[np.uint8]) -> Any:
    """The network with statistics of these pictures; do not change its weights."""
    built = build("none", "resnet", seed=5)
    batch_norm.calibrate_batch_norms(built, [images])
    return built


def test_layers_are_the_documents(model: Any) -> None:
    assert [layer.name for layer in model.layers] == [
        "images",
        "augmentation",
        "scaling",
        "resnet50v2",
        "gap",
        "dropout",
        "probability",
    ]
    backbone = network.backbone_of(model)
    assert len(backbone.layers) == 190
    assert not any(layer.trainable for layer in backbone.layers[:140])
    assert all(layer.trainable for layer in backbone.layers[140:])
    assert model.get_layer("dropout").rate == 0.3
    head = model.get_layer("probability")
    assert (head.units, head.activation.__name__) == (1, "sigmoid")
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.001)
    assert isinstance(model.loss, keras.losses.BinaryCrossentropy)


def test_parameter_counts(model: Any) -> None:
    counts = network.parameter_counts(model)
    backbone = network.backbone_of(model)
    total = sum(int(np.prod(v.shape)) for v in backbone.variables) + 2049
    assert counts["trained"] + counts["frozen"] == total


@pytest.mark.parametrize("mode", ["resnet", "resnet_v2"])
def test_scaling_is_keras_preprocess_input(images: npt.NDArray[np.uint8], mode: Any) -> None:
    oracle = getattr(keras.applications, mode).preprocess_input(images.astype(np.float32))
    np.testing.assert_allclose(np.asarray(network.RgbScaling(mode)(images)), oracle, atol=1e-5)


def test_unknown_scaling_is_refused() -> None:
    with pytest.raises(ValueError, match="resnet or resnet_v2"):
        network.RgbScaling("caffe")  # type: ignore[arg-type]


def test_answers_do_not_augment_unless_training(model: Any, images: npt.NDArray[np.uint8]) -> None:
    once, again = np.asarray(model(images)), np.asarray(model(images))
    np.testing.assert_array_equal(once, again)
    np.testing.assert_allclose(model.predict(images, verbose=0), once, atol=1e-6)
    assert not np.array_equal(np.asarray(model(images, training=True)), np.asarray(model(images, training=True)))


def test_uint8_and_float_pixels_give_the_same(model: Any, images: npt.NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(np.asarray(model(images)), np.asarray(model(images.astype(np.float32))))


def test_augmentation_flips_and_turns_within_limits(images: npt.NDArray[np.uint8]) -> None:
    still = network.Augmentation(seed=1, turns=0.0)
    crop = images[:1].astype(np.float32)
    variants = {tuple(flips): crop[:, :: flips[0], :: flips[1]] for flips in ((1, 1), (1, -1), (-1, 1), (-1, -1))}
    seen = set()
    for _ in range(40):
        out = np.asarray(still(crop, training=True))
        matches = [key for key, value in variants.items() if np.abs(out - value).max() < 0.51]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == set(variants)
    turned = np.asarray(network.Augmentation(seed=1)(np.repeat(crop, 8, 0), training=True))
    assert turned.min() >= crop.min() - 1e-3  # reflected, so no black corners
    assert len({out.tobytes() for out in turned}) == 8


def test_split_backbone_computes_the_same(model: Any, images: npt.NDArray[np.uint8]) -> None:
    backbone = network.backbone_of(model)
    trunk, tail = network.split_backbone(backbone)
    scaled = model.get_layer("scaling")(images)
    whole = np.asarray(backbone(scaled, training=False))
    np.testing.assert_allclose(np.asarray(tail(trunk(scaled, training=False), training=False)), whole, atol=1e-4)
    assert whole.std() > 0.1
    assert not trunk.trainable_variables
    assert {v.path for v in tail.trainable_variables} == {v.path for v in backbone.trainable_variables}


def test_batch_norm_start_gives_every_layer_its_own_statistics(model: Any, images: npt.NDArray[np.uint8]) -> None:
    backbone = network.backbone_of(model)
    probe = keras.Model(backbone.input, [norm.input for norm in network.batch_norms(backbone)])
    seen = probe(model.get_layer("scaling")(images), training=False)
    for norm, values in zip(network.batch_norms(backbone), seen, strict=True):
        values = np.asarray(values, np.float64)
        scale = values.std()
        np.testing.assert_allclose(np.asarray(norm.moving_mean), values.mean((0, 1, 2)), atol=1e-2 * scale)
        np.testing.assert_allclose(np.asarray(norm.moving_variance), values.var((0, 1, 2)), atol=2e-2 * scale**2)
        assert norm.momentum == 0.99
    assert not backbone.layers[100].trainable


def test_batches_are_pooled_by_total_variance(images: npt.NDArray[np.uint8]) -> None:
    built = network.assemble("resnet_v2", seed=5)
    batch_norm.calibrate_batch_norms(built, [images[:2], images[2:]])
    backbone = network.backbone_of(built)
    first = next(network.batch_norms(backbone))
    probe = keras.Model(backbone.input, first.input)
    values = np.asarray(probe(built.get_layer("scaling")(images), training=False), np.float64)
    np.testing.assert_allclose(np.asarray(first.moving_mean), values.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.asarray(first.moving_variance), values.var((0, 1, 2)), rtol=1e-3)


def test_same_seed_same_weights() -> None:
    first, again, other = (network.assemble("resnet", seed) for seed in (1, 1, 2))
    for a, b in zip(first.weights, again.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    kernels = [np.asarray(network.backbone_of(m).layers[2].kernel) for m in (first, other)]
    assert not np.array_equal(kernels[0], kernels[1])


def test_saves_and_loads_in_safe_mode(model: Any, images: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = network.load_model(path)
    np.testing.assert_array_equal(np.asarray(loaded(images)), np.asarray(model(images)))
    parts = network.inference_parts(loaded)
    assert (parts.input_scaling, parts.kernel.shape, parts.bias.shape) == ("resnet", (2048, 1), (1,))
    features = np.asarray(parts.backbone(loaded.get_layer("scaling")(images), training=False)).mean((1, 2))
    logits = features @ parts.kernel + parts.bias
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), np.asarray(model(images)), atol=1e-5)


def test_unusable_model_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no Keras model"):
        network.load_model(tmp_path / "none.keras")
    (tmp_path / "model.h5").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"not a \.keras file"):
        network.load_model(tmp_path / "model.h5")
    (tmp_path / "torn.keras").write_bytes(b"PK\x03\x04torn")
    with pytest.raises(ModelError, match="cannot be loaded"):
        network.load_model(tmp_path / "torn.keras")


def test_another_network_is_refused(tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(1)(inputs)).save(tmp_path / "other.keras")
    with pytest.raises(ModelError, match="not this network"):
        network.load_model(tmp_path / "other.keras")


def test_code_inside_a_model_file_is_not_run(tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    path = tmp_path / "hostile.keras"
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(path)
    assert "config.json" in zipfile.ZipFile(path).namelist()
    with pytest.raises(ModelError, match="cannot be loaded"):
        network.load_model(path)


@pytest.mark.parametrize(("optimizer", "rate"), [("rmsprop", 0.1), ("sgd", 0.0), ("adam", float("nan"))])
def test_bad_optimizers_are_refused(optimizer: Any, rate: float) -> None:
    with pytest.raises(UsageError):
        make_optimizer(optimizer, rate)
