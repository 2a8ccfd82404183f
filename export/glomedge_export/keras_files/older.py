"""``.keras`` archives of Keras 2.12, the first to write them, which no later Keras opens.

Keras 2.13 moved its modules to ``keras.src`` and renamed the groups of the weights. Neither tf_keras 2.21 nor Keras
2.15 looks for the old names, so such a file is loaded from a copy with the new ones; no number in it changes.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

from glomedge.errors import ModelError
from glomedge_export.keras_files.identify import KerasFile
from glomedge_export.keras_files.reading import CONFIG, METADATA, WEIGHTS, opened_archive, reason, shown

_OLD_GROUP, _GROUP = "_layer_checkpoint_dependencies", "layers"


def needs_new_names(file: KerasFile) -> bool:
    """Whether the file is an archive of Keras 2.12 (or its 2.11 preview)."""
    return file.file_format == "keras2" and (file.keras_version or "").startswith(("2.11.", "2.12."))


def write_with_new_names(file: KerasFile, folder: Path) -> Path:
    """A copy in ``folder`` that tf_keras opens. Raises ModelError where the archive is damaged."""
    weights, copy = folder / WEIGHTS, folder / "model.keras"
    try:
        with opened_archive(file.path) as archive:
            with archive.open(WEIGHTS) as source, weights.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            metadata = archive.read(METADATA)
        _rename_groups(weights)
        with zipfile.ZipFile(copy, "w") as archive:
            archive.writestr(METADATA, metadata)
            archive.writestr(CONFIG, json.dumps(_with_new_modules(file.config)))
            archive.write(weights, WEIGHTS)
    except ModelError:
        raise
    # zipfile and h5py raise OSError, KeyError, RuntimeError, ValueError and others on damaged files.
    except Exception as error:
        raise ModelError(f"{shown(file.path)} is damaged ({reason(error)}). Copy it again.") from error
    weights.unlink()
    return copy


def _rename_groups(path: Path) -> None:
    import h5py

    with h5py.File(path, "r+") as opened:
        waiting = [opened]
        while waiting:
            group = waiting.pop()
            if _OLD_GROUP in group and _GROUP not in group:
                group.move(_OLD_GROUP, _GROUP)
            waiting += [item for item in group.values() if isinstance(item, h5py.Group)]


def _with_new_modules(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_new_modules(item) for item in value]
    if not isinstance(value, dict):
        return value
    changed = {key: _with_new_modules(item) for key, item in value.items()}
    module = changed.get("module")
    # Public names (keras.layers) carry no registered name and are as they were.
    if isinstance(module, str) and module.startswith("keras.") and changed.get("registered_name") is not None:
        changed["module"] = "keras.src." + module.removeprefix("keras.").removeprefix("src.")
    return changed
