"""Starting weights: ImageNet by download, a file, or none, each checked before anything is overwritten.

Accepted files, told apart by their content:
    Keras model            .keras, .h5 or SavedModel folder of Keras 2 or 3: all weights of a model that glomedge
                           trained, else those of the ResNet50V2 inside
    ``save_weights``       .weights.h5 of this network
    Keras' own weights     the ImageNet .h5 of ResNet50V2, with or without top
"""

from __future__ import annotations

import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import h5py

from glomedge.errors import ModelError
from glomedge_export.frameworks import keras
from glomedge_export.keras_files import safety
from glomedge_export.keras_files.identify import identify
from glomedge_export.keras_files.load import open_model
from glomedge_export.network import network
from glomedge_export.network.foreign_weights import matched, weights_in

DOWNLOAD_TIMEOUT_S = 15.0
# The one layer of the top in Keras' ImageNet file "with top"; it has no place in this network.
_TOP_LAYERS = frozenset({"predictions"})
_ZIP, _HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"

_WAYS_ON = (
    "Either fetch Keras' ResNet50V2 ImageNet file (resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5) on a "
    "machine with a network and name it with --weights FILE, or start without: --weights none"
)


def load_into(model: Any, weights: str) -> None:
    """Fill a model of this network with starting weights.

    Args:
        model: from ``network.assemble``; changed in place.
        weights: ``imagenet``, ``none`` (nothing is loaded) or the path of a file.

    Raises:
        ModelError: no such file, damaged, of another network, or the download failed.
    """
    if weights == "none":
        return
    if weights == "imagenet":
        _load_imagenet(network.backbone_of(model))
        return
    path = Path(weights)
    if path.is_dir():
        _copy_model(model, path)
        return
    if not path.is_file():
        raise ModelError(f"There is no weights file at {path}. Name another with --weights, or use: --weights none")
    with path.open("rb") as handle:
        head = handle.read(8)
    if head.startswith(_ZIP):
        _copy_model(model, path)
    elif head == _HDF5:
        _load_hdf5(model, path)
    elif path.suffix in (".h5", ".hdf5"):
        raise ModelError(f"{path} is damaged or no HDF5 file. Copy it again, or name another with --weights.")
    elif path.suffix == ".keras":
        raise ModelError(f"{path} cannot be loaded as a Keras model (it is no archive). Copy it again.")
    else:
        raise ModelError(
            f"{path} is not a kind of weights file known here: give a Keras model (.keras, .h5, SavedModel folder), "
            "a .weights.h5 of this model, or Keras' own ResNet50V2 .h5, with --weights"
        )


@contextmanager
def _download_timeout(seconds: float) -> Iterator[None]:
    """Keras downloads without a timeout; a silent network must not hang training for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _load_imagenet(backbone: Any) -> None:
    try:
        # Keras prints its progress to standard output, which is for results.
        with _download_timeout(DOWNLOAD_TIMEOUT_S), redirect_stdout(sys.stderr):
            source = keras.applications.ResNet50V2(
                include_top=False, weights="imagenet", input_shape=backbone.input_shape[1:]
            )
    # Keras turns every network failure into a bare Exception.
    except Exception as error:
        raise ModelError(f"The ImageNet weights could not be downloaded ({_first_line(error)}). {_WAYS_ON}") from error
    backbone.set_weights(source.get_weights())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    # Keras' own text names the address that failed; the reason after the last colon is what a user can use.
    return lines[0].rsplit(" -- ", 1)[-1] if lines else type(error).__name__


def _load_hdf5(model: Any, path: Path) -> None:
    with _opened(path) as handle:
        whole, listed = "model_config" in handle.attrs, "layer_names" in handle.attrs or "model_weights" in handle
        saved = any(name in handle for name in ("layers", "_layer_checkpoint_dependencies"))
    if whole:
        _copy_model(model, path)
    elif saved and not listed:
        _load_own_h5(model, path)
    else:
        _load_application_h5(network.backbone_of(model), path)


def _copy_model(model: Any, path: Path) -> None:
    file = identify(path)
    safety.check(file)
    if safety.is_own(file):
        _copy_own(model, path, open_model(file)[0])
        return
    backbone = network.backbone_of(model)
    layers = [layer for layer in backbone.layers if layer.weights]
    wanted = [(layer.name, [tuple(variable.shape) for variable in layer.weights]) for layer in layers]
    found, wrong = matched(wanted, weights_in(file))
    _refuse(path, wrong)
    for layer, weights in zip(layers, found, strict=True):
        layer.set_weights(weights.arrays)


def _copy_own(target: Any, path: Path, source: Any) -> None:
    mine = {_key(v): v for v in target.weights}
    theirs = {_key(v): v for v in source.weights}
    wrong = [
        f"{name} has shape {tuple(theirs[name].shape)} instead of {tuple(variable.shape)}"
        if name in theirs
        else f"{name} is missing"
        for name, variable in mine.items()
        if name not in theirs or tuple(theirs[name].shape) != tuple(variable.shape)
    ]
    _refuse(path, wrong)
    for name, variable in mine.items():
        variable.assign(theirs[name])


def _key(variable: Any) -> str:
    return str(variable.path)


def _refuse(path: Path, wrong: list[str]) -> None:
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ModelError(
            f"{path} does not fit this network: {'; '.join(wrong[:3])}{more}. "
            "Name a file of ResNet50V2 with --weights, or use: --weights none"
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with h5py.File(path, "r") as handle:
            yield handle
    except OSError as error:
        raise ModelError(
            f"{path} is damaged or no HDF5 file ({_first_line(error)}). Copy it again, or name another with --weights."
        ) from error


def _load_own_h5(model: Any, path: Path) -> None:
    with _opened(path):
        pass
    try:
        # Where parts of a file do not fit Keras only warns, and leaves those layers at their random start.
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model.load_weights(path)
    except (ValueError, KeyError, OSError, UserWarning) as error:
        raise ModelError(
            f"{path} does not fit this network: {_first_line(error)} Name a .weights.h5 of this model with "
            "--weights, or use: --weights none"
        ) from error


def _load_application_h5(backbone: Any, path: Path) -> None:
    """Keras' legacy weights file: one group a layer, listed in the attribute ``layer_names``."""
    with _opened(path) as handle:
        root = handle["model_weights"] if "layer_names" not in handle.attrs and "model_weights" in handle else handle
        if "layer_names" not in root.attrs:
            raise ModelError(
                f"{path} is no Keras weights file: it lists no layers. Name Keras' own ResNet50V2 .h5 with --weights, "
                "or use: --weights none"
            )
        arrays = {
            _text(layer): [root[_text(layer)][_text(name)][()] for name in root[_text(layer)].attrs["weight_names"]]
            for layer in root.attrs["layer_names"]
        }
    wrong: list[str] = []
    with_weights = [layer for layer in backbone.layers if layer.weights]
    for layer in with_weights:
        expected = [tuple(variable.shape) for variable in layer.weights]
        if layer.name not in arrays:
            wrong.append(f"layer {layer.name} is missing")
        elif (found := [array.shape for array in arrays[layer.name]]) != expected:
            wrong.append(f"layer {layer.name} has shapes {found} instead of {expected}")
    known = {layer.name for layer in backbone.layers} | _TOP_LAYERS
    wrong += [f"layer {name} is unknown here" for name, values in arrays.items() if values and name not in known]
    _refuse(path, wrong)
    for layer in with_weights:
        layer.set_weights(arrays[layer.name])


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
