"""What ``glomedge info`` says of a Keras file, without any framework."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glomedge.errors import ModelError
from glomedge_export.keras_files.backbones import backbone_of
from glomedge_export.keras_files.describe import describe, in_rows
from glomedge_export.keras_files.layers import CONVOLUTIONS, layers_of
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
        assert found.command() == command + (" --positive-class 0|1" if outputs == 2 else "")
        assert json.loads(json.dumps(found.as_json()))["input_scaling"] == scaling
        rows = in_rows(found)
        assert 8 <= len(rows) <= 11
        assert dict(rows)["head"] == ", ".join(head)


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
