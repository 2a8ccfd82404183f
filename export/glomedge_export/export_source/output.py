"""Where an export goes without ``--output``, and that it takes no file made from another model."""

from __future__ import annotations

import json
import os
from pathlib import Path

from glomedge.errors import GlomedgeError, UsageError
from glomedge.files.writing import sha256_of
from glomedge.model.file import read_model_file
from glomedge.model.spec import Precision, Target
from glomedge_export.keras_files import safety
from glomedge_export.keras_files.identify import identify
from glomedge_export.keras_files.reading import shown

RECORDED = "keras_model"
"""Key of the report (``<model>.export.json``) under which ``recorded_name`` is."""


def with_a_name(model: Path) -> Path:
    """The same path with a name of its own: ``.`` inside a SavedModel folder has none."""
    return model if model.name not in ("", "..") else model.resolve()


def default_output(model: Path, precision: Precision, target: Target) -> Path:
    """``model.onnx`` for float32 and any target, else ``model.<precision>.<target>.onnx``, next to the Keras model."""
    # A folder has no suffix: what follows the last dot of its name is part of it.
    stem = model.name if model.is_dir() else model.stem
    return model.parent / (stem + (".onnx" if target == "any" else f".{precision}.{target}.onnx"))


def recorded_name(model: Path, output: Path) -> str:
    """The Keras model as seen from the folder of its output, so that both may be moved together."""
    return Path(os.path.relpath(model.absolute(), output.parent.absolute())).as_posix()


def check_not_of_another(output: Path, model: Path) -> None:
    """Refuse to replace a file at the default path that was not exported from this model.

    Raises:
        UsageError: it was made from another model, or ``glomedge export`` did not write it.
    """
    if not output.exists():
        return
    recorded, name = _recorded(output), recorded_name(model, output)
    if recorded == name or (recorded is None and _may_be_of(output, model)):
        return
    name = shown(name)
    made = f"was made from {shown(recorded)}" if recorded is not None else f"is no file that was exported from {name}"
    raise UsageError(
        f"{shown(output)} {made}, and exporting {name} would replace it. Name another file with --output, or move "
        "that one."
    )


def _recorded(output: Path) -> str | None:
    """What the report beside a file says that it was made from; None where there is none of just this file."""
    try:
        report = json.loads(output.with_suffix(".export.json").read_bytes())
        if report["file_sha256"] == sha256_of(output) and isinstance(report[RECORDED], str):
            return str(report[RECORDED])
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        pass
    return None


def _may_be_of(output: Path, model: Path) -> bool:
    """Without a report: whether the file was made from this model or from an earlier one in the same form."""
    try:
        origin = read_model_file(output).spec.source
    except GlomedgeError:
        return False
    file = identify(model)
    if origin is None or safety.is_own(file):
        return origin is None and safety.is_own(file)
    return origin.file_format == file.file_format
