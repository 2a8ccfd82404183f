"""What a Keras file may name, wherever it is nested, and what its HDF5 may point to."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from glomedge.errors import ModelError
from glomedge_export.keras_files.identify import identify
from glomedge_export.keras_files.safety import check, is_own
from helpers.keras2_files import Genuine

Write = Callable[..., Path]


def _layers(config: dict[str, Any]) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = config["config"]["layers"]
    return layers


def _backbone(config: dict[str, Any]) -> dict[str, Any]:
    return next(layer for layer in _layers(config) if layer["config"]["name"] == "resnet50v2")


def _dense(config: dict[str, Any]) -> dict[str, Any]:
    return _layers(config)[-1]


def _traced(config: dict[str, Any]) -> dict[str, Any]:
    return next(layer for layer in _layers(config) if layer["class_name"] == "TFOpLambda")


def _set(where: Callable[[dict[str, Any]], dict[str, Any]], **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: where(config).update(values)


def _set_inner(where: Callable[[dict[str, Any]], dict[str, Any]], **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: where(config)["config"].update(values)


LAMBDA = {"class_name": "Lambda", "config": {"name": "prep", "function": ["4wEAAA==", None, None]}}
RAW_LAMBDA = {"class_name": "__lambda__", "config": {"value": "4wEAAA=="}}

REFUSED: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda config: _layers(config).append(LAMBDA), "a Lambda layer 'prep', which is Python code"),
    (lambda config: _backbone(config)["config"]["layers"].append(LAMBDA), "a Lambda layer 'prep'"),
    (_set_inner(_dense, kernel_initializer=RAW_LAMBDA), "a Lambda layer"),
    (_set_inner(_dense, activation={"a": [[LAMBDA]]}), "a Lambda layer"),
    (lambda config: _traced(config)["inbound_nodes"].append([{"y": RAW_LAMBDA}]), "a Lambda layer"),
    (_set(_dense, module="os", class_name="system"), "'system', which is not a layer"),
    (_set(_dense, module="os"), "'Dense' of the package 'os', which is not Keras"),
    (_set(_dense, module="keras.layers.os.path;import"), "which is not Keras"),
    (_set(_dense, module="kerasx.layers"), "which is not Keras"),
    (_set(_dense, module=["keras"]), "which is not Keras"),
    (_set(_dense, class_name="TFSMLayer"), "'TFSMLayer', which is not a layer that glomedge knows"),
    (_set(_dense, class_name="TextVectorization"), "'TextVectorization'"),
    (_set(_dense, class_name="MyLayer"), "'MyLayer'"),
    (_set(_dense, class_name=["Dense"]), "an object without a name"),
    (_set(_dense, registered_name="Custom>Dense"), "the custom object 'Custom>Dense'"),
    (_set(_dense, class_name="glomedge>Other"), "'glomedge>Other'"),
    (_set_inner(_traced, function="io.read_file"), r"TensorFlow function 'io\.read_file'"),
    (_set_inner(_traced, function="py_function"), "TensorFlow function 'py_function'"),
    (_set_inner(_traced, function=None), "TensorFlow function 'None'"),
    (_set(_traced, class_name="ClassMethod"), "'ClassMethod'"),
    (_set(_traced, class_name="TensorFlowOpLayer"), "'TensorFlowOpLayer'"),
    (
        _set_inner(_dense, activation={"class_name": "function", "module": "keras.utils", "config": "get_file"}),
        "the function 'get_file'",
    ),
    (
        _set_inner(_dense, activation={"class_name": "function", "module": "builtins", "config": "my_relu"}),
        "the function 'my_relu'",
    ),
    (_set(_backbone, compile_config={"loss": {"class_name": "MyLoss", "config": {}}}), "'MyLoss'"),
    (lambda config: config.pop("class_name"), "names no model"),
]


@pytest.mark.parametrize("h5", [False, True], ids=["keras", "h5"])
@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_refused_before_loading(with_config: Write, change: Any, words: str, h5: bool) -> None:
    def changed(config: dict[str, Any]) -> None:
        change(config)

    file = identify(with_config(changed, h5))
    with pytest.raises(ModelError, match=words) as caught:
        check(file)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_genuine_files_pass(genuine: dict[str, Genuine]) -> None:
    for made in genuine.values():
        for structure in made.made["structures"]:
            for path in made.files(structure):
                file = identify(path)
                check(file)
                assert not is_own(file)


def test_what_the_outer_model_was_compiled_with_is_not_read(with_config: Write) -> None:
    """Every model is loaded with compile=False."""
    path = with_config(lambda config: config.update(compile_config={"loss": {"class_name": "MyLoss"}}))
    check(identify(path))


def test_a_word_in_a_file_does_not_make_it_ours(with_config: Write) -> None:
    """Neither as the name of a layer nor where nothing is read."""
    ours = {"class_name": "RgbScaling", "registered_name": "glomedge>RgbScaling", "config": {}}
    for change in (
        _set_inner(_dense, name="glomedge>RgbScaling"),
        lambda config: config.update(compile_config={"loss": ours}),
    ):
        file = identify(with_config(change))
        check(file)
        assert not is_own(file)


@pytest.mark.parametrize("class_name", ["RgbScaling", "glomedge>RgbScaling"])
def test_a_file_with_our_layer_is_ours_and_is_checked_all_the_same(with_config: Write, class_name: str) -> None:
    registered = {"registered_name": "glomedge>RgbScaling"} if class_name == "RgbScaling" else {}
    ours = {"class_name": class_name, "module": "glomedge_export.network.network", **registered, "config": {}}
    evil = {"class_name": "Lambda", "config": {"name": "evil"}}
    assert is_own(identify(with_config(lambda config: config["config"]["layers"].append(ours))))
    file = identify(with_config(lambda config: config["config"]["layers"].extend([ours, evil])))
    with pytest.raises(ModelError, match="Lambda layer 'evil'"):
        check(file)


def test_a_page_long_name_gives_a_short_message(with_config: Write) -> None:
    path = with_config(_set(_dense, class_name="\x1b[2J" + "A" * 5000))
    with pytest.raises(ModelError) as caught:
        check(identify(path))
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_hdf5_may_not_point_outside_its_file(keras2: Genuine, tmp_path: Path) -> None:
    def changed(change: Callable[[Any], Any]) -> Path:
        path = tmp_path / "changed.h5"
        shutil.copy(keras2.folder / "published.h5", path)
        with h5py.File(path, "r+") as opened:
            change(opened["model_weights"])
        return path

    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(4,))
    for change, words in (
        (lambda group: group.__setitem__("out", h5py.ExternalLink("/etc/passwd", "/")), "may lead to another file"),
        (lambda group: group.__setitem__("soft", h5py.SoftLink("/model_weights")), "may lead to another file"),
        (
            lambda group: group.create_dataset("x", (4,), "f4", external=[("/etc/passwd", 0, 16)]),
            "stored in another file",
        ),
        (lambda group: group.create_virtual_dataset("v", layout), "stored in another file"),
        (lambda group: group.create_dataset("huge", (1 << 32,), "f4", chunks=(1 << 20,)), "claims more than 8 GB"),
        (lambda group: group.__setitem__("circle", group), "holds 'circle' twice"),
    ):
        with pytest.raises(ModelError, match=words):
            check(identify(changed(change)))


def test_the_weights_of_an_archive_are_checked_too(keras2: Genuine, tmp_path: Path) -> None:
    def archive(*members: tuple[str, bytes]) -> Path:
        path = tmp_path / "a.keras"
        with zipfile.ZipFile(keras2.folder / "published.keras") as source, zipfile.ZipFile(path, "w") as target:
            for name in ("config.json", "metadata.json"):
                target.writestr(name, source.read(name))
            for name, data in members:
                target.writestr(name, data)
        return path

    weights = tmp_path / "w.h5"
    with h5py.File(weights, "w") as opened:
        opened.create_dataset("x", data=np.zeros(3))
    check(identify(archive(("model.weights.h5", weights.read_bytes()))))
    with h5py.File(weights, "r+") as opened:
        opened["out"] = h5py.ExternalLink("/etc/passwd", "/")
    for members, words in (
        ([("model.weights.h5", weights.read_bytes())], "may lead to another file"),
        ([("model.weights.h5", b"no HDF5")], "damaged HDF5"),
        ([], r"holds no model\.weights\.h5"),
        ([("model.weights.h5", b""), ("other.h5", b"")], "or more than that"),
    ):
        with pytest.raises(ModelError, match=words):
            check(identify(archive(*members)))
