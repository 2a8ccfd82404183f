"""What ``glomedge info`` says of a Keras file, without any framework."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glomedge.errors import ModelError
from glomedge_export.keras_files import backbones as of_configurations
from glomedge_export.keras_files.backbones import backbone_of, convolutions_sha256
from glomedge_export.keras_files.describe import describe, in_rows
from glomedge_export.keras_files.identify import identify
from glomedge_export.keras_files.layers import CONVOLUTIONS, layers_of
from glomedge_export.keras_files.saved_graph import keras_metadata
from helpers.keras2_files import ARCHIVES, Genuine

VERSIONS = [archive.name.removeprefix("keras-").removesuffix(".tar.xz") for archive in ARCHIVES]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("structure", "scaling", "head", "outputs", "activation"),
    [
        ("published", "resnet_v2", ("GlobalAveragePooling2D", "Dropout(0.3)", "Dense(1, sigmoid)"), 1, "sigmoid"),
        ("published_caffe", "resnet", ("GlobalAveragePooling2D", "Dropout(0.3)", "Dense(1, sigmoid)"), 1, "sigmoid"),
        ("sequential", "resnet_v2", ("GlobalAveragePooling2D", "Dropout(0.3)", "Dense(1, sigmoid)"), 1, "sigmoid"),
        ("head_softmax", "resnet_v2", ("GlobalAveragePooling2D", "Dropout(0.3)", "Dense(2, softmax)"), 2, "softmax"),
        ("mixed", "resnet_v2", ("GlobalAveragePooling2D", "Dropout(0.3)", "Dense(1, sigmoid)"), 1, "sigmoid"),
    ],
)
def test_every_format_says_the_same(
    genuine: dict[str, Genuine],
    version: str,
    structure: str,
    scaling: str,
    head: tuple[str, ...],
    outputs: int,
    activation: str,
) -> None:
    for path in genuine[version].files(structure):
        found = describe(path)
        assert found.file.keras_version == version
        assert found.side_px == 32
        assert (found.scaling, found.head, found.outputs, found.activation) == (scaling, head, outputs, activation)
        assert found.nested
        assert found.backbone == "other"
        assert found.mixed == (structure == "mixed")
        assert found.augmentation == (("RandomFlip", "RandomRotation") if "published" in structure else ())
        assert (found.refused, found.unchecked, found.own) == (None, None, False)
        assert (found.tensorflow is not None) == path.is_dir()
        command = f"glomedge export {path} --recipe seed|published|plain"
        command += " --positive-class 0|1" if outputs == 2 else ""
        assert found.command() == (None if found.mixed and path.is_dir() else command)
        assert json.loads(json.dumps(found.as_json()))["input_scaling"] == scaling
        rows = in_rows(found)
        assert 8 <= len(rows) <= 11
        assert dict(rows)["head"] == ", ".join(head)


def test_every_format_shows_the_same_convolutions(genuine: dict[str, Genuine]) -> None:
    """keras_metadata.pb writes tuples where other files have lists."""
    for made in genuine.values():
        hashes = set()
        for path in made.files("published"):
            config = identify(path).config or keras_metadata(path)["model_config"]
            hashes.add(convolutions_sha256([layer for layer in layers_of(config) if layer.kind in CONVOLUTIONS]))
        assert len(hashes) == 1


def _without_front(config: dict[str, Any]) -> None:
    """The configuration with no scaling (its graph is then broken, but nothing is built)."""
    config["config"]["layers"] = [
        layer for layer in config["config"]["layers"] if layer["class_name"] not in ("TFOpLambda", "Sequential")
    ]


def test_what_the_file_does_not_say_must_be_given(with_config: Callable[..., Path]) -> None:
    def changed(config: dict[str, Any]) -> None:
        _without_front(config)
        first, last = config["config"]["layers"][0], config["config"]["layers"][-1]
        first["config"]["batch_input_shape"] = [None, None, None, 3]
        last["config"]["activation"] = "linear"

    found = describe(with_config(changed))
    assert (found.scaling, found.side_px, found.activation) == (None, None, "linear")
    command = found.command()
    assert command is not None
    for option in ("--input-scaling resnet|resnet_v2|torch|unit|none", "--logits", "--input-side PX"):
        assert option in command
    assert "--input-scaling says what was done" in dict(in_rows(found))["scaling"]


def _rescaling(scale: Any, offset: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        layers = config["config"]["layers"]
        at = next(at for at, layer in enumerate(layers) if layer["class_name"] == "TFOpLambda")
        _without_front(config)
        layer = {"class_name": "Rescaling", "config": {"name": "r", "scale": scale, "offset": offset}}
        config["config"]["layers"].insert(min(at, 1), layer)

    return change


@pytest.mark.parametrize(
    ("scale", "offset", "name"),
    [
        (1 / 255, 0.0, "unit"),
        (0.00392156862745098, 0, "unit"),
        (1 / 127.5, -1, "resnet_v2"),
        (1 / 127.5, [-1, -1, -1], "resnet_v2"),
        (1 / 128, -1, "affine"),
        (
            [1 / (255 * deviation) for deviation in (0.229, 0.224, 0.225)],
            [-2.1179039, -2.0357143, -1.8044444],
            "torch",
        ),
    ],
)
def test_a_rescaling_layer_has_a_name_where_it_is_known(
    with_config: Callable[..., Path], scale: Any, offset: Any, name: str
) -> None:
    assert describe(with_config(_rescaling(scale, offset))).scaling == name


def test_a_network_is_recognised_by_its_convolutions() -> None:
    keras = pytest.importorskip("keras", reason="needs TensorFlow: pip install 'glomedge[export]'")
    base = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    text = json.dumps(keras.saving.serialize_keras_object(base))
    # Other names of the layers, and a head round it, change nothing.
    for config in (text, text.replace("block_", "x")):
        layers = layers_of(json.loads(config))
        convolutions = [layer for layer in layers if layer.kind in CONVOLUTIONS]
        assert len(layers) == len(base.layers)
        assert backbone_of(convolutions) == "mobilenetv2"
        assert backbone_of(convolutions[1:]) == "other"


def test_a_file_and_its_graph_are_recognised_as_the_same_networks() -> None:
    """Both tables are printed by tests/tools/backbone_table.py."""
    pytest.importorskip("onnx", reason="needs onnx: pip install 'glomedge[export]'")
    from glomedge_export.graph import backbones as of_graphs

    assert sorted(of_configurations.KNOWN.values()) == sorted(of_graphs.KNOWN.values())
    assert len(set(of_graphs.KNOWN.values())) == len(of_graphs.KNOWN)


def test_an_own_model_needs_no_recipe(tmp_path: Path) -> None:
    pytest.importorskip("keras", reason="needs TensorFlow: pip install 'glomedge[export]'")
    from glomedge_export.network import network

    network.assemble("resnet_v2").save(tmp_path / "model.keras")
    found = describe(tmp_path / "model.keras")
    assert found.own
    assert (found.backbone, found.scaling, found.refused) == ("resnet50v2", "resnet_v2", None)
    assert found.command() == f"glomedge export {tmp_path / 'model.keras'}"


def test_an_unsafe_file_is_described_and_refused(with_config: Callable[..., Path]) -> None:
    def unsafe(config: dict[str, Any]) -> None:
        config["config"]["layers"].append({"class_name": "Lambda", "config": {"name": "evil"}})

    found = describe(with_config(unsafe))
    assert found.refused is not None
    assert "Lambda layer 'evil'" in found.refused
    assert found.command() is None
    assert dict(in_rows(found))["export"] == "refused"


def _last_dense(units: int, activation: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        config["config"]["layers"][-1]["config"].update(units=units, activation=activation)

    return change


def _input_of(*shape: int | None) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "InputLayer":
                layer["config"]["batch_input_shape"] = [None, *shape]

    return change


def _two_inputs(config: dict[str, Any]) -> None:
    config["config"]["input_layers"] = [config["config"]["input_layers"][0]] * 2


def _one_minus(config: dict[str, Any]) -> None:
    arithmetic = {"class_name": "TFOpLambda", "config": {"name": "s", "function": "math.subtract"}}
    config["config"]["layers"].append({**arithmetic, "inbound_nodes": [["_CONSTANT_VALUE", -1, 1, {}]]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_last_dense(3, "softmax"), r"answers with the shape \[None, 3\].*two classes"),
        (_last_dense(1, "tanh"), r"ends in tanh over 1 number\. glomedge takes Dense\(1, sigmoid\)"),
        (_last_dense(2, "sigmoid"), "ends in sigmoid over 2 numbers"),
        (_last_dense(1, "softmax"), "ends in softmax over 1 number"),
        (_input_of(32, 48, 3), r"the shape \[None, 32, 48, 3\].*square RGB"),
        (_input_of(32, 32, 1), "square RGB"),
        (_input_of(16, 16, 3), "an input of 16 px: glomedge takes 32 to 1024 px"),
        (_two_inputs, "has 2 inputs and 1 outputs"),
        (_one_minus, "combines probabilities.*TFOpLambda behind sigmoid"),
    ],
)
def test_what_export_always_refuses_is_said_instead_of_a_command(
    with_config: Callable[..., Path], change: Callable[[dict[str, Any]], None], words: str
) -> None:
    for h5 in (False, True):
        found = describe(with_config(change, h5))
        assert found.command() is None
        assert found.unfit is not None
        assert re.search(words, found.unfit)
        assert len(found.unfit) < 500
        assert dict(in_rows(found))["export"] == f"refused: {found.unfit}"
        assert found.as_json()["unfit"] == found.unfit


def test_a_saved_model_in_half_precision_is_named_as_such(genuine: dict[str, Genuine]) -> None:
    for made in genuine.values():
        for path in made.files("mixed"):
            unfit = describe(path).unfit
            assert (unfit is not None) == path.is_dir()
            assert unfit is None or "Save it as .keras or .h5" in unfit


def test_what_is_said_of_a_file_of_keras_3_is_what_loading_says(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras", reason="needs TensorFlow: pip install 'glomedge[export]'")
    from glomedge_export.keras_files.load import load

    layers = keras.layers

    def network(front: Callable[[Any], Any], head: Callable[[Any], Any]) -> Any:
        images = keras.Input((32, 32, 3))
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(front(images)))
        return keras.Model(images, head(x))

    def sigmoid(x: Any) -> Any:
        return layers.Dense(1, activation="sigmoid")(x)

    rescaled = layers.Rescaling(1 / 255)
    for name, model in (
        ("arithmetic.h5", network(lambda x: x / 255.0, sigmoid)),
        ("three.keras", network(rescaled, layers.Dense(3, activation="softmax"))),
        ("outputs.keras", network(rescaled, lambda x: [sigmoid(x), sigmoid(x)])),
        ("never.keras", keras.Sequential([layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(1)])),
    ):
        model.save(tmp_path / name)
        found = describe(tmp_path / name)
        with pytest.raises(ModelError) as caught:
            load(tmp_path / name)
        assert (name, found.unfit) == (name, str(caught.value))
    built = keras.Sequential([layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(1)])
    built.build((None, 32, 32, 3))
    built.save(tmp_path / "built.keras")
    found = describe(tmp_path / "built.keras")
    assert (found.unfit, found.side_px, load(tmp_path / "built.keras").side_px) == (None, 32, 32)


def test_a_configuration_that_keras_did_not_write(with_config: Callable[..., Path]) -> None:
    def broken(config: dict[str, Any]) -> None:
        config["config"]["layers"] = [3]

    with pytest.raises(ModelError, match="not as Keras writes it") as caught:
        describe(with_config(broken))
    assert len(str(caught.value)) < 500


def test_a_saved_model_without_a_note_of_keras(keras2: Genuine, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(keras2.folder / "head_softmax_savedmodel", tmp_path / "saved")
    (tmp_path / "saved" / "keras_metadata.pb").unlink()
    found = describe(tmp_path / "saved")
    assert (found.layers, found.side_px, found.activation, found.scaling) == (None, 32, "softmax", None)
    assert found.command() == f"glomedge export {tmp_path / 'saved'} --recipe seed|published|plain"
    assert "export reads the graph" in dict(in_rows(found))["head"]


def test_an_archive_is_described_without_h5py(keras2: Genuine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    found = describe(keras2.folder / "published.keras")
    assert found.refused is None
    assert "h5py is not installed" in (found.unchecked or "")
    assert found.scaling == "resnet_v2"
