"""Starting weights from every kind of file, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from glomedge.errors import ModelError

keras = pytest.importorskip("keras", reason="needs TensorFlow: pip install 'glomedge[export]'")
pytestmark = pytest.mark.keras

from glomedge_export.network import network, weights  # noqa: E402


@pytest.fixture(scope="module")
def source() -> Any:
    """A network whose weights are to be carried over."""
    return network.assemble("resnet", seed=11)


@pytest.fixture(scope="module")
def target() -> Any:
    """A network to load into; tests overwrite its weights."""
    return network.assemble("resnet", seed=12)


def write_legacy_h5(backbone: Any, path: Path) -> None:
    """The format of Keras' own application weights: groups by layer name, as Keras' documentation of HDF5 has it."""
    with h5py.File(path, "w") as handle:
        handle.attrs["layer_names"] = [layer.name.encode() for layer in backbone.layers]
        for layer in backbone.layers:
            group = handle.create_group(layer.name)
            names = [f"{layer.name}/{variable.name}:0".encode() for variable in layer.weights]
            group.attrs["weight_names"] = names
            for name, variable in zip(names, layer.weights, strict=True):
                group.create_dataset(name.decode(), data=np.asarray(variable))


def assert_same(first: Any, second: Any) -> None:
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def scramble(model: Any) -> None:
    for variable in model.weights:
        variable.assign(np.full(variable.shape, 0.5, np.float32))


def test_none_leaves_the_weights(target: Any) -> None:
    before = [np.array(variable) for variable in target.weights]
    weights.load_into(target, "none")
    for a, b in zip(before, target.weights, strict=True):
        np.testing.assert_array_equal(a, np.asarray(b))


@pytest.mark.parametrize("suffix", ["model.keras", "model.weights.h5"])
def test_files_of_this_model(source: Any, target: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / suffix
    source.save(path) if suffix.endswith(".keras") else source.save_weights(path)
    scramble(target)
    weights.load_into(target, str(path))
    assert_same(source, target)


def test_bare_backbone_keras_file(source: Any, target: Any, tmp_path: Path) -> None:
    network.backbone_of(source).save(tmp_path / "backbone.keras")
    scramble(target)
    weights.load_into(target, str(tmp_path / "backbone.keras"))
    assert_same(network.backbone_of(source), network.backbone_of(target))
    assert np.asarray(target.get_layer("probability").kernel).max() == 0.5


@pytest.mark.parametrize("name", ["other.keras", "other.h5", "a-name-without-suffix"])
def test_the_backbone_of_another_classifier(source: Any, target: Any, tmp_path: Path, name: str) -> None:
    """A Keras 3 model of this backbone with a head of its own: the backbone is taken, the head is not."""
    inputs = keras.Input((224, 224, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(network.backbone_of(source)(inputs))
    classifier = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(pooled))
    written = tmp_path / (name if "." in name else "other.keras")
    classifier.save(written)
    path = written.rename(tmp_path / name)
    scramble(target)
    weights.load_into(target, str(path))
    assert_same(network.backbone_of(source), network.backbone_of(target))
    assert np.asarray(target.get_layer("probability").kernel).max() == 0.5


def test_an_unsafe_file_is_refused(target: Any, tmp_path: Path) -> None:
    inputs = keras.Input((224, 224, 3))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x)(inputs)).save(tmp_path / "lambda.keras")
    with pytest.raises(ModelError, match="Lambda layer"):
        weights.load_into(target, str(tmp_path / "lambda.keras"))


def test_keras_own_application_file(source: Any, target: Any, tmp_path: Path) -> None:
    path = tmp_path / "resnet50v2_weights_notop.h5"
    write_legacy_h5(network.backbone_of(source), path)
    # The format is Keras' own: its loader reads the file too.
    oracle = network.new_backbone()
    oracle.load_weights(path)
    assert_same(oracle, network.backbone_of(source))
    scramble(target)
    weights.load_into(target, str(path))
    assert_same(network.backbone_of(source), network.backbone_of(target))


def test_application_file_with_another_shape_is_named(source: Any, target: Any, tmp_path: Path) -> None:
    path = tmp_path / "wrong.h5"
    write_legacy_h5(network.backbone_of(source), path)
    with h5py.File(path, "a") as handle:
        name = str(np.asarray(handle["conv1_conv"].attrs["weight_names"]).astype(str)[0])
        del handle["conv1_conv"][name]
        handle["conv1_conv"].create_dataset(name, data=np.zeros((3, 3, 3, 64), np.float32))
        handle.attrs["layer_names"] = [n for n in handle.attrs["layer_names"] if n not in (b"post_bn", "post_bn")]
    before = np.array(target.weights[0])
    with pytest.raises(ModelError) as caught:
        weights.load_into(target, str(path))
    assert "layer conv1_conv has shapes [(3, 3, 3, 64), (64,)] instead of [(7, 7, 3, 64), (64,)]" in str(caught.value)
    assert "layer post_bn is missing" in str(caught.value)
    np.testing.assert_array_equal(before, np.asarray(target.weights[0]))


def test_weights_of_another_network_are_refused(target: Any, tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    other = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    other.save(tmp_path / "other.keras")
    other.save_weights(tmp_path / "other.weights.h5")
    for name in ("other.keras", "other.weights.h5"):
        with pytest.raises(ModelError, match="--weights"):
            weights.load_into(target, str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("gone.h5", None, "There is no weights file"),
        ("torn.h5", b"\x89HDF\r\n\x1a\ntorn", "damaged or no HDF5 file"),
        ("torn.weights.h5", b"rubbish", "damaged or no HDF5 file"),
        ("torn.keras", b"rubbish", "cannot be loaded as a Keras model"),
        ("model.onnx", b"rubbish", "not a kind of weights file"),
    ],
)
def test_unusable_files_are_named(target: Any, tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=reason) as caught:
        weights.load_into(target, str(path))
    assert str(path) in str(caught.value)


def test_h5_without_layers_is_no_weights_file(target: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(ModelError, match="lists no layers"):
        weights.load_into(target, str(tmp_path / "empty.h5"))


def test_imagenet_without_a_network_names_both_ways_on(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A proxy that refuses at once stands for the missing network; an empty Keras home for weights never fetched.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        weights.load_into(target, "imagenet")
    assert "--weights FILE" in str(caught.value)
    assert "--weights none" in str(caught.value)
    # Standard output is for results (--json).
    assert capsys.readouterr().out == ""
