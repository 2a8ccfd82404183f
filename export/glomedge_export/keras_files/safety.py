"""Whether a Keras file only computes, decided before a framework opens it.

Keras' own safe mode does not cover every file: tf_keras (Keras 2) ignores it for ``.h5`` and imports any module that a
configuration names; Keras 3 opened files that a configuration names in several releases. So the configuration may
name only what ``allowed`` lists, wherever it is nested; HDF5 may not point outside its file; the graph of a SavedModel
may hold only operations that compute.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glomedge.errors import ModelError
from glomedge_export.keras_files import allowed
from glomedge_export.keras_files.identify import KerasFile
from glomedge_export.keras_files.reading import WEIGHTS, opened_archive, opened_hdf5, refusing, shown
from glomedge_export.keras_files.saved_graph import check_saved_graph
from glomedge_export.keras_files.wiring import wrong_wiring

# Modules of Keras 2 and 3 themselves. Their names are looked up there, so the class must be one that is allowed, too.
_KERAS_MODULE = re.compile(r"(?:tf_)?keras(?:\.[a-z][a-z0-9_]*)*")
_MAX_OBJECTS = 100_000
_MAX_ARRAY_BYTES = 8 << 30


def check(file: KerasFile) -> None:
    """Refuse a file that could do more than compute.

    Raises:
        ModelError: naming what was found: a Lambda layer, a class of another package, a TensorFlow function or
            operation that is not on the list, HDF5 that points outside its file.
    """
    if file.file_format == "savedmodel":
        check_saved_graph(file.path)
        return
    check_config(file)
    if file.file_format == "h5":
        with opened_hdf5(file.path) as opened:
            _check_hdf5(file, opened)
        return
    with opened_archive(file.path) as archive:
        names = archive.namelist()
        strays = [name for name in names if name.endswith(".h5") and name != WEIGHTS]
        if WEIGHTS not in names or strays:
            raise ModelError(
                f"{shown(file.path)} holds no {WEIGHTS}, or more than that. Save the whole model again: "
                "model.save('FILE.keras')"
            )
        with tempfile.TemporaryDirectory(prefix="glomedge-") as folder:
            # A copy, because jumping to and fro inside an archive's member reads it from its start each time.
            weights = Path(folder) / WEIGHTS
            damaged = f"{WEIGHTS} in {shown(file.path)} is damaged ({{reason}}). Copy it again."
            with refusing(file.path, damaged), archive.open(WEIGHTS) as source, weights.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            with opened_hdf5(weights, file.path) as opened:
                _check_hdf5(file, opened)


def is_own(file: KerasFile) -> bool:
    """Whether glomedge trained the model: its configuration holds glomedge's own RgbScaling layer.

    What a file says of itself is no proof, so ``check`` comes first.
    """
    layer = f"{allowed.OWN_PACKAGE}RgbScaling"
    return any(
        layer in (found["class_name"], found.get("registered_name")) for found in named_objects(_model_config(file))
    )


def check_config(file: KerasFile) -> None:
    """Check the configuration alone. Raises ModelError as ``check`` does."""
    config = _model_config(file)
    if not isinstance(config.get("class_name"), str):
        raise ModelError(
            f"The configuration in {shown(file.path)} names no model. Save the whole model: model.save(FILE)"
        )
    for found in named_objects(config):
        wrong = _wrong_with(found)
        if wrong is not None:
            raise ModelError(
                f"{shown(file.path)} holds {wrong}. A model file is a program, so glomedge loads only layers of Keras "
                "itself. Replace it by such layers and save the model again."
            )
    _check_wiring(file, config)


def _model_config(file: KerasFile) -> dict[str, Any]:
    config = dict(file.config or {})
    # Losses, metrics and optimiser: not read, because every model is loaded with compile=False.
    config.pop("compile_config", None)
    return config


def _check_wiring(file: KerasFile, config: dict[str, Any]) -> None:
    wrong = wrong_wiring(config, file.is_keras3)
    if wrong is not None:
        raise ModelError(f"{shown(file.path)} holds {wrong}. It is damaged or not written by Keras; copy it again.")


def named_objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every object of a configuration that a framework would make, outermost first: dictionaries with a class name."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            waiting += reversed(list(value.values()))
        elif isinstance(value, list):
            waiting += reversed(value)


def _wrong_with(found: dict[str, Any]) -> str | None:
    name, module, registered = found["class_name"], found.get("module"), found.get("registered_name")
    inner = found.get("config")
    if not isinstance(name, str):
        return f"an object without a name ({shown(name)})"
    if name in ("Lambda", "__lambda__"):
        called = inner.get("name") if isinstance(inner, dict) else None
        return f"a Lambda layer{f' {shown(called)!r}' if called else ''}, which is Python code"
    own = name.removeprefix(allowed.OWN_PACKAGE)
    if own in allowed.OWN_LAYERS and registered in (None, name, f"{allowed.OWN_PACKAGE}{own}"):
        # Of the module nothing is imported where the name is registered, and it is.
        return None if str(module).startswith("glomedge_export.") or module is None else f"{shown(name)!r} of elsewhere"
    if name == "function":
        return None if inner in allowed.FUNCTIONS and module == "builtins" else f"the function {shown(inner)!r}"
    if name not in allowed.CLASSES:
        return f"{shown(name)!r}, which is not a layer that glomedge knows"
    if module is not None and not (isinstance(module, str) and _KERAS_MODULE.fullmatch(module)):
        return f"{shown(name)!r} of the package {shown(module)!r}, which is not Keras"
    if registered not in (None, name):
        return f"the custom object {shown(registered)!r}"
    if name in allowed.TENSORFLOW_LAYERS:
        function = inner.get("function") if isinstance(inner, dict) else None
        if not isinstance(function, str) or function not in allowed.TENSORFLOW_FUNCTIONS:
            return f"the TensorFlow function {shown(function)!r}, which is not one of those that glomedge knows"
    return None


def _check_hdf5(file: KerasFile, opened: Any) -> None:
    with refusing(file.path, f"The HDF5 in {shown(file.path)} is damaged ({{reason}}). Copy it again."):
        _walk_hdf5(shown(file.path), opened)


def _walk_hdf5(where: str, opened: Any) -> None:
    import h5py

    count, size, waiting = 0, 0, [opened]
    seen = {h5py.h5o.get_info(opened.id).addr}
    while waiting:
        group = waiting.pop()
        for name in group:
            count += 1
            link = group.get(name, getlink=True)
            if count > _MAX_OBJECTS:
                raise ModelError(f"The HDF5 in {where} holds too many objects for a model. Save the model again.")
            if not isinstance(link, h5py.HardLink):
                raise ModelError(
                    f"The HDF5 in {where} holds the link {shown(name)!r}, which may lead to another file. Save the "
                    "model again."
                )
            item = group[name]
            if isinstance(item, h5py.Group):
                # A hard link may lead back to a group above it.
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    raise ModelError(f"The HDF5 in {where} holds {shown(name)!r} twice. Save the model again.")
                seen.add(address)
                waiting.append(item)
                continue
            if not isinstance(item, h5py.Dataset) or item.external or item.is_virtual:
                raise ModelError(
                    f"{shown(name)!r} in the HDF5 of {where} is stored in another file. Save the model again."
                )
            size += item.size * item.dtype.itemsize if item.size else 0
            if size > _MAX_ARRAY_BYTES:
                raise ModelError(f"The HDF5 in {where} claims more than {_MAX_ARRAY_BYTES >> 30} GB. Save it again.")
