"""Weights out of files that glomedge did not write, matched with a network's layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.keras2_files import Genuine, unpack

pytest.importorskip("keras", reason="needs TensorFlow: pip install 'glomedge[export]'")
pytestmark = pytest.mark.keras

from glomedge_export.keras_files.identify import identify  # noqa: E402
from glomedge_export.network.foreign_weights import LayerWeights, Shapes, matched, weights_in  # noqa: E402

WANTED: list[tuple[str, Shapes]] = [("a_conv", [(3, 3), (3,)]), ("a_bn", [(3,)] * 4), ("b_conv", [(3, 3), (3,)])]


def layer(name: str, *shapes: tuple[int, ...]) -> LayerWeights:
    """Random arrays of these shapes."""
    return LayerWeights(name, [np.random.default_rng(len(name)).normal(size=shape) for shape in shapes])


def network(rename: Callable[[str], str] = str) -> list[LayerWeights]:
    """The layers of ``WANTED`` within a larger model."""
    inner = [layer(rename(name), *shapes) for name, shapes in WANTED]
    return [layer("normalization", (3,), (3,)), *inner, layer("dense", (3, 1), (1,))]


@pytest.mark.parametrize(
    "rename", [str, lambda name: f"{name}_17", lambda name: f"backbone.{name}", lambda name: "layer"],
    ids=["names", "suffixes", "order", "one name"],
)  # fmt: skip
def test_matched(rename: Callable[[str], str]) -> None:
    found = network(rename)
    layers, wrong = matched(WANTED, found)
    assert wrong == []
    assert layers == found[1:4]


def test_names_decide_before_order() -> None:
    found = network()
    found[1], found[3] = found[3], found[1]
    layers, wrong = matched(WANTED, found)
    assert (layers, wrong) == ([found[3], found[2], found[1]], [])


def test_what_does_not_fit_is_named() -> None:
    other_shape = [layer("a_conv", (5, 5), (5,)), *network()[2:]]
    assert matched(WANTED, other_shape) == ([], ["layer a_conv has shapes [(5, 5), (5,)] instead of [(3, 3), (3,)]"])
    assert matched(WANTED, network()[:3]) == ([], ["layer b_conv is missing"])
    assert matched(WANTED, []) == ([], [f"layer {name} is missing" for name, _ in WANTED])


def test_an_order_that_fits_in_two_places_is_no_match() -> None:
    unnamed = [layer(f"x{at}", *shapes) for at, (_, shapes) in enumerate([*WANTED, *WANTED])]
    layers, wrong = matched(WANTED, unnamed)
    assert layers == []
    assert wrong


@pytest.fixture(scope="module")
def keras2(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Genuine]:
    return {found.version: found for found in unpack(tmp_path_factory.mktemp("keras2"))}


@pytest.mark.parametrize("version", ["2.12.0", "2.15.0"])
def test_every_format_holds_the_same_weights(keras2: dict[str, Genuine], version: str) -> None:
    made = keras2[version]
    read = {path.name: weights_in(identify(path)) for path in made.files("published")}
    assert len(read) >= 3
    expected = read["published.h5"]
    names = ["conv1_conv", "conv1_bn", "conv2_conv", "conv3_conv", "post_bn", "dense"]
    assert [found.name for found in expected] == names
    gamma, beta, mean, variance = expected[1].arrays
    assert not any(np.array_equal(gamma, other) for other in (beta, mean, variance))
    for name, layers in read.items():
        by_name = {found.name: found.arrays for found in layers}
        for found in expected:
            for mine, theirs in zip(found.arrays, by_name[found.name], strict=True):
                np.testing.assert_array_equal(mine, theirs, err_msg=name)


def test_a_saved_model_that_is_no_keras_object_is_read_by_its_signature(tmp_path: Path) -> None:
    """As ``tf.saved_model.save`` writes a model of Keras 3: an object without ``variables``."""
    from glomedge_export.frameworks import keras, layers, tf

    images = keras.Input((32, 32, 3))
    x = layers.BatchNormalization(name="conv1_bn")(layers.Conv2D(4, 3, name="conv1_conv")(images))
    model = keras.Model(images, layers.Dense(1, name="dense")(layers.GlobalAveragePooling2D()(x)))
    for weights in model.weights:
        weights.assign(np.random.default_rng(len(weights.path)).uniform(0.5, 1.5, weights.shape))
    tf.saved_model.save(model, tmp_path / "saved")
    found = {one.name: one.arrays for one in weights_in(identify(tmp_path / "saved"))}
    assert sorted(found) == ["conv1_bn", "conv1_conv", "dense"]
    for name, arrays in found.items():
        for mine, theirs in zip(arrays, model.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_variables_that_name_no_layers_are_refused(tmp_path: Path) -> None:
    from glomedge.errors import ModelError
    from glomedge_export.frameworks import tf

    module = tf.Module()
    module.kernel = tf.Variable(tf.ones((3, 1)), name="kernel")
    signature = tf.TensorSpec((None, 32, 32, 3), tf.float32)
    answer = tf.function(
        lambda images: tf.sigmoid(tf.reduce_mean(images, (1, 2)) @ module.kernel), input_signature=[signature]
    )
    tf.saved_model.save(module, tmp_path / "saved", signatures=answer)
    with pytest.raises(ModelError, match=r"do not say which layers.*model\.save") as caught:
        weights_in(identify(tmp_path / "saved"))
    assert len(str(caught.value)) < 500


def test_a_file_of_another_network_is_refused(keras2: dict[str, Genuine], tmp_path: Path) -> None:
    from glomedge.errors import ModelError
    from glomedge_export.network import network as own
    from glomedge_export.network import weights

    model = own.assemble("resnet")
    before = [np.array(variable) for variable in model.weights]
    for path in keras2["2.15.0"].files("published"):
        with pytest.raises(ModelError, match=r"does not fit this network.*conv2_block1") as caught:
            weights.load_into(model, str(path))
        assert len(str(caught.value)) < 500
    for old, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, np.asarray(variable))
