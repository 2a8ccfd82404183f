"""What kind of Keras file a path is, by its content, without any framework.

    zip archive with config.json            .keras of Keras 2 (2.12 and newer) or Keras 3
    HDF5 with the attribute model_config    whole-model .h5 of Keras 2 or 3
    folder with saved_model.pb              SavedModel

Keras 2.12 itself writes some models as HDF5 under the suffix .keras, so a suffix says nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from glomedge.errors import ModelError
from glomedge.files.writing import sha256_of
from glomedge_export.keras_files.reading import (
    CONFIG,
    MAX_CONFIG_BYTES,
    METADATA,
    SAVED_MODEL,
    TAKEN,
    json_of,
    member_of,
    opened_archive,
    opened_hdf5,
    reason,
    refusing,
    shown,
)
from glomedge_export.keras_files.saved_graph import keras_version_of

FileFormat = Literal["keras3", "keras2", "h5", "savedmodel"]

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_ZIP, _HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class KerasFile:
    """A Keras file, identified but not yet checked by ``safety.check``.

    Attributes:
        path: of the file, or of the SavedModel folder.
        file_format: by content; ``h5`` may be of Keras 2 or 3 (``keras_version``).
        keras_version: of the Keras that wrote it, such as ``2.15.0``; None where the file does not say.
        config: the model's configuration, None for a SavedModel.
        sha256: of the file; of a SavedModel folder, over the relative name and the SHA-256 of each file, sorted.
    """

    path: Path
    file_format: FileFormat
    keras_version: str | None
    config: dict[str, Any] | None
    sha256: str

    @property
    def is_keras3(self) -> bool:
        """Whether Keras 3 wrote it (a SavedModel needs no Keras at all)."""
        return self.keras_version is not None and self.keras_version.startswith("3.")


def identify(path: Path) -> KerasFile:
    """Find out what a path is.

    Raises:
        ModelError: missing, a Git LFS pointer, weights without a model, an ONNX file, damaged, or no Keras file.
        MissingExtraError: an HDF5 file, and h5py is not installed.
    """
    try:
        if path.is_dir():
            return _saved_model(path)
        if not path.is_file():
            raise ModelError(f"There is no Keras model at {shown(path)}. Name a file or a SavedModel folder.")
        with path.open("rb") as handle:
            head = handle.read(512)
        if head.startswith(_ZIP):
            return _archive(path)
        if head.startswith(_HDF5):
            return _hdf5(path)
    except OSError as error:
        raise ModelError(f"{shown(path)} cannot be read ({reason(error)}). Copy it again.") from error
    raise ModelError(_what_else(path, head))


def _what_else(path: Path, head: bytes) -> str:
    name = shown(path)
    if not head:
        return f"{name} is empty. Copy it again."
    if head.startswith(_LFS_POINTER):
        return f"{name} is a Git LFS pointer, not the model itself. Fetch it with: git lfs pull"
    if path.name == SAVED_MODEL:
        return f"{name} is one file of a SavedModel. Name its folder: {shown(path.parent)}"
    if head[4:8] == b"TFL3":
        return f"{name} is a TensorFlow Lite file, from which no Keras model can be read. {TAKEN}"
    if head[:1] == b"\x08" and path.suffix == ".onnx":
        return f"{name} is an ONNX file, not a Keras model. glomedge info and infer take the ones glomedge exported."
    if path.name.endswith((".index", ".data-00000-of-00001")):
        return f"{name} is a TensorFlow checkpoint: weights without a model. Save the whole model: model.save(FILE)"
    return f"{name} is no Keras model. {TAKEN}"


# --- .keras -----------------------------------------------------------------------------------------------------------


def _archive(path: Path) -> KerasFile:
    with opened_archive(path) as archive:
        config = json_of(path, member_of(path, archive, CONFIG), CONFIG)
        version = None
        if METADATA in archive.namelist():
            version = _version(json_of(path, member_of(path, archive, METADATA), METADATA).get("keras_version"))
    if version is None or not version.startswith(("2.", "3.")):
        raise ModelError(
            f"{shown(path)} says Keras {shown(version or 'of unknown version')}, and only files of Keras 2 and 3 are "
            "known. Save the model again with one of these."
        )
    return KerasFile(path, "keras3" if version.startswith("3.") else "keras2", version, config, sha256_of(path))


# --- .h5 --------------------------------------------------------------------------------------------------------------


def _hdf5(path: Path) -> KerasFile:
    damaged = f"{shown(path)} holds damaged HDF5 ({{reason}}). Copy it again."
    with opened_hdf5(path) as file, refusing(path, damaged):
        config, version = file.attrs.get("model_config"), file.attrs.get("keras_version")
        weights = "layer_names" in file.attrs or {"layers", "_layer_checkpoint_dependencies"} & set(file)
    if config is None:
        if weights:
            raise ModelError(
                f"{shown(path)} holds weights without a model. Save the whole model: model.save(FILE); to start "
                "training from these weights: glomedge train DATA --weights FILE"
            )
        raise ModelError(f"{shown(path)} is an HDF5 file without a Keras model. {TAKEN}")
    data = config if isinstance(config, bytes) else str(config).encode("utf-8", "surrogatepass")
    if len(data) > MAX_CONFIG_BYTES:
        raise ModelError(
            f"model_config inside {shown(path)} is larger than {MAX_CONFIG_BYTES >> 20} MB. Save it again."
        )
    keras_version = _version(version.decode("utf-8", "replace") if isinstance(version, bytes) else version)
    if keras_version is not None and not keras_version.startswith(("2.", "3.")):
        raise ModelError(
            f"{shown(path)} says Keras {shown(keras_version)}, and only files of Keras 2 and 3 are known. Save the "
            "model again with one of these."
        )
    return KerasFile(path, "h5", keras_version, json_of(path, data, "model_config"), sha256_of(path))


# --- SavedModel -------------------------------------------------------------------------------------------------------


def _saved_model(path: Path) -> KerasFile:
    if not (path / SAVED_MODEL).is_file():
        if (path / "saved_model.pbtxt").is_file():
            raise ModelError(f"{shown(path)} is a SavedModel in text form, which nobody writes. Save it again.")
        raise ModelError(f"The folder {shown(path)} holds no {SAVED_MODEL}, so it is no SavedModel. {TAKEN}")
    if not any((path / "variables").glob("variables.index")):
        raise ModelError(f"The SavedModel {shown(path)} has no variables/variables.index. Copy the whole folder again.")
    return KerasFile(path, "savedmodel", keras_version_of(path), None, sha256_of_folder(path))


def sha256_of_folder(path: Path) -> str:
    """SHA-256 over the relative name and the SHA-256 of each file in a folder, sorted by name."""
    digest = hashlib.sha256()
    for file in sorted(part for part in path.rglob("*") if part.is_file()):
        digest.update(file.relative_to(path).as_posix().encode("utf-8", "surrogateescape") + b"\0")
        digest.update(sha256_of(file).encode())
    return digest.hexdigest()


def _version(value: Any) -> str | None:
    return value if isinstance(value, str) else None
