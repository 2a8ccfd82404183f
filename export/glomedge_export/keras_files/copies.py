"""The file that a framework is given: the user's own, or a copy with another configuration.

Three things need a copy; no weight in it changes:

- Keras decides by the suffix, glomedge by the content: a link with the right suffix.
- ``.keras`` of Keras 2.12, the first to write them. Keras 2.13 moved its modules to ``keras.src`` and renamed the
  groups of the weights; neither Keras 2.15 nor tf_keras 2.21 looks for the old names.
- Mixed precision: its variables are float32, its arithmetic is float16 or bfloat16. What is exported computes in
  float32, so the policies in the configuration become float32.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

from glomedge_export.keras_files.identify import KerasFile
from glomedge_export.keras_files.reading import CONFIG, METADATA, WEIGHTS, opened_archive, refusing, shown

_OLD_GROUP, _GROUP = "_layer_checkpoint_dependencies", "layers"
_NUMBERED = re.compile(r"(.+)_(\d+)")
_HALF = ("float16", "bfloat16")
_MIXED = ("mixed_float16", "mixed_bfloat16")


def to_open(file: KerasFile, folder: Path) -> Path:
    """What to hand to the framework: the path itself, or a link or copy in ``folder``, an empty one.

    Raises:
        ModelError: the file is damaged.
    """
    config, old_names = file.config, _is_of_keras_2_12(file)
    if old_names:
        config = _with_new_modules(config)
    if _is_mixed(config):
        config = _in_float32(config)
    suffix = ".h5" if file.file_format == "h5" else ".keras"
    if config is file.config:
        if file.path.suffix == suffix:
            return file.path
        link = folder / f"model{suffix}"
        link.symlink_to(file.path.resolve())
        return link
    with refusing(file.path, f"{shown(file.path)} is damaged ({{reason}}). Copy it again."):
        if file.file_format == "h5":
            return _hdf5_with(file.path, config, folder)
        return _archive_with(file.path, config, folder, old_names)


def _is_of_keras_2_12(file: KerasFile) -> bool:
    return file.file_format == "keras2" and (file.keras_version or "").startswith(("2.11.", "2.12."))


def _hdf5_with(path: Path, config: Any, folder: Path) -> Path:
    import h5py

    copy = folder / "model.h5"
    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as opened:
        opened.attrs["model_config"] = json.dumps(config)
    return copy


def _archive_with(path: Path, config: Any, folder: Path, old_names: bool) -> Path:
    weights, copy = folder / WEIGHTS, folder / "model.keras"
    with opened_archive(path) as archive:
        with archive.open(WEIGHTS) as source, weights.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        metadata = archive.read(METADATA)
    if old_names:
        _rename_groups(weights)
    with zipfile.ZipFile(copy, "w") as archive:
        archive.writestr(METADATA, metadata)
        archive.writestr(CONFIG, json.dumps(config))
        archive.write(weights, WEIGHTS)
    weights.unlink()
    return copy


def _rename_groups(path: Path) -> None:
    """Groups of Keras 2.12 under the names of 2.13.

    Both name a layer by its class and a running number. In 2.12 the number counts a layer with weights twice, because
    it stands in two lists: conv2d, conv2d_2, conv2d_4.
    """
    import h5py

    with h5py.File(path, "r+") as opened:
        waiting = [opened]
        while waiting:
            group = waiting.pop()
            if _OLD_GROUP in group and _GROUP not in group:
                group.move(_OLD_GROUP, _GROUP)
                _renumber(group[_GROUP])
            waiting += [item for item in group.values() if isinstance(item, h5py.Group)]


def _renumber(layers: Any) -> None:
    of_class: dict[str, list[int]] = {}
    for name in layers:
        found = _NUMBERED.fullmatch(name)
        kind, number = (found[1], int(found[2])) if found else (name, 0)
        of_class.setdefault(kind, []).append(number)
    for kind, numbers in of_class.items():
        # Upwards: a new number is never above the old one, so it is free.
        for new, old in enumerate(sorted(numbers)):
            if new != old:
                layers.move(f"{kind}_{old}", f"{kind}_{new}" if new else kind)


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


def _is_mixed(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_mixed(item) for item in value.values())
    if isinstance(value, list):
        return any(_is_mixed(item) for item in value)
    return value in _MIXED


def _in_float32(value: Any) -> Any:
    if isinstance(value, list):
        return [_in_float32(item) for item in value]
    if not isinstance(value, dict):
        return "float32" if value in _MIXED else value
    # A symbolic tensor or an implied input between half-precision layers has its dtype as well.
    return {
        key: "float32" if key in ("dtype", "DType") and item in _HALF else _in_float32(item)
        for key, item in value.items()
    }
