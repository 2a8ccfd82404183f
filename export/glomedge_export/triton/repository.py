"""``glomedge export-triton``: a model and its enhancement as a model repository."""

from __future__ import annotations

from pathlib import Path

from glomedge.errors import UsageError
from glomedge.files.writing import check_writable, write_atomically
from glomedge.model.file import ModelFile, read_model_file
from glomedge.model.graph import check_graph
from glomedge_export.enhancement.files import sealed_enhancement
from glomedge_export.proof.tensorrt import unfit
from glomedge_export.triton import config
from glomedge_export.triton.config import Serving


def write_repository(folder: Path, model: Path, serving: Serving) -> tuple[Path, ...]:
    """Write a repository of three models: network, enhancement, and both as an ensemble.

    Args:
        folder: where to; made when missing, must be empty.
        model: an exported model.
        serving: how the server runs it.

    Returns:
        Every file written.

    Raises:
        ModelError: ``model`` is no intact model of glomedge.
        UsageError: it is laid out for something else than ``serving.device``, or ``folder`` cannot be written to.
        GateError: the enhancement as ONNX differs from ``glomedge.enhance``.
    """
    file = read_model_file(model)
    check_graph(model, file.spec)
    check_device(file, serving)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and not an empty folder. Remove it, or name another OUT.")
    network = model.read_bytes()
    enhancement, _ = sealed_enhancement(file.spec.recipe)
    if not folder.parent.is_dir():
        raise UsageError(f"The folder {folder.parent} does not exist. Create it, or name another OUT.")
    check_writable(folder.parent, "Name another OUT.")
    files = {
        Path(config.NETWORK, "1", "model.onnx"): network,
        Path(config.ENHANCEMENT, "1", "model.onnx"): enhancement,
        # A server that polls takes a model once its configuration is there.
        Path(config.NETWORK, "config.pbtxt"): config.text(config.network(file, serving)).encode(),
        Path(config.ENHANCEMENT, "config.pbtxt"): config.text(config.enhancement(file)).encode(),
        Path(config.CROP, "config.pbtxt"): config.text(config.crop(file)).encode(),
    }
    # An ensemble has no file, but Triton wants the folder of its version.
    (folder / config.CROP / "1").mkdir(parents=True)
    for relative, data in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    return tuple(folder / relative for relative in files)


def check_device(file: ModelFile, serving: Serving) -> None:
    """Refuse a file that is laid out for another runtime than the server would use. Raises UsageError."""
    precision, target = file.spec.precision, file.spec.target
    if serving.device == "cpu":
        if target not in ("any", "onnxruntime"):
            raise UsageError(
                f"{file.path} is laid out for {target}, and --device cpu runs onnxruntime. Export it with --target "
                "onnxruntime, or choose --device gpu."
            )
        return
    why = "laid out for openvino" if target == "openvino" else unfit(precision, target)
    if why is not None:
        again = "without --target" if precision == "fp32" else "with --target tensorrt"
        raise UsageError(f"{file.path} is {why}. Export it {again}, or choose --device cpu.")
