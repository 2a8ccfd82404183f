"""What the comparisons need, made once under ``build/benchmarks``: crops, and every file of one model.

The model is the demo's (``glomedge-demo/artifacts``) or ``artifacts/``, else one trained here for two epochs on drawn
crops: speed does not depend on how well it was trained, and parity is measured against that same model.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.lib.common import ROOT, WORK, file_sha256, log, user_crops

WANTED = (("fp32", "onnxruntime"), ("int8", "onnxruntime"), ("int8", "openvino"))


def artifacts() -> Path:
    """A folder with ``model.keras``, ``model.onnx``, ``plain.onnx`` and what other files could be exported."""
    folder = WORK / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    places = (ROOT / "artifacts", ROOT / "glomedge-demo" / "artifacts")
    source = next((place for place in places if (place / "model.onnx").is_file()), None)
    kept = folder / "model.onnx"
    if source is not None and kept.is_file() and file_sha256(kept) != file_sha256(source / "model.onnx"):
        log("the model has changed since the last run: its files are exported again")
        shutil.rmtree(folder)
        folder.mkdir()
    if not kept.is_file():
        if source is not None:
            log(f"model: {source.relative_to(ROOT)}")
            for name in ("model.keras", "model.keras.json", "model.onnx"):
                shutil.copyfile(source / name, folder / name)
            _take_exported(source, folder)
        else:
            _train(folder)
    # The demo names its crops as seen from its own folder.
    crops = None if source is None or source.parent == ROOT else source.parent / "data"
    for precision, target in WANTED:
        path = folder / f"model.{precision}.{target}.onnx"
        if not path.is_file() and (target != "openvino" or _importable("openvino")):
            _export(folder, precision, target, crops if precision == "int8" else None)
    if not (folder / "plain.onnx").is_file():
        _plain(folder)
    return folder


def _take_exported(source: Path, folder: Path) -> None:
    """Files of the same weights that were exported before: calibrating again would take minutes."""
    from glomedge.model.file import read_model_file

    weights = read_model_file(folder / "model.onnx").spec.weights_sha256
    for precision, target in WANTED:
        path = source / f"model.{precision}.{target}.onnx"
        if path.is_file() and read_model_file(path).spec.weights_sha256 == weights:
            shutil.copyfile(path, folder / path.name)


def _train(folder: Path) -> None:
    log("no trained model found: training one for two epochs on drawn crops ...")
    data = user_crops(192, seed=11)
    run("train", str(data), "--weights", "none", "--epochs", "2", "--output", str(folder), "--overwrite")
    # Weights after two epochs from random numbers magnify rounding: on some machines by more than the gate allows.
    if not _export(folder, "fp32", "any"):
        raise SystemExit("no model to measure: train one with glomedge train, or run glomedge demo, and start again")


def _export(folder: Path, precision: str, target: str, calibration: Path | None = None) -> bool:
    """Export one file into the folder; whether it is there."""
    log(f"exporting {precision} for {target} ...")
    path = folder / ("model.onnx" if target == "any" else f"model.{precision}.{target}.onnx")
    wanted = ["--precision", precision, "--target", target, "--output", str(path)]
    if calibration is not None:
        wanted += ["--calibration", str(calibration)]
    done = run("export", str(folder / "model.keras"), *wanted, check=False)
    if done.returncode != 0:
        # A file that fails its gates must not be deployed, but it runs as fast; its flips are reported with its speed.
        log(f"  the gates refused it ({last_line(done)}); made without them, for timing only")
        off = [
            part for gate in ("probability", "flips", "auroc", "grades", "map") for part in (f"--gate-{gate}", "off")
        ]
        done = run("export", str(folder / "model.keras"), *wanted, *off, check=False)
    if done.returncode != 0:
        log(f"  not exported: {last_line(done)}")
    return done.returncode == 0


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of a command's standard error."""
    return (done.stderr.strip().splitlines() or ["no message"])[-1]


def _plain(folder: Path) -> None:
    """tf2onnx's plain conversion, as a tutorial does it, in its own process."""
    log("converting with plain tf2onnx for the tutorial's loop ...")
    code = (
        "import sys; sys.path[:0] = sys.argv[3:];"
        "from glomedge_export.frameworks import tf; import tf2onnx;"
        "from glomedge_export.network.network import load_model;"
        "model = load_model(sys.argv[1]);"
        "signature = (tf.TensorSpec((None, 224, 224, 3), tf.float32, name='input'),);"
        "tf2onnx.convert.from_keras(model, input_signature=signature, opset=17, output_path=sys.argv[2])"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(folder / "model.keras"), str(folder / "plain.onnx"), str(ROOT),
         str(ROOT / "export")],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``glomedge ARGUMENTS`` in this checkout. Raises SystemExit when it fails and ``check`` is set."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "export")])}
    done = subprocess.run(
        [sys.executable, "-m", "glomedge", *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if check and done.returncode != 0:
        raise SystemExit(f"glomedge {arguments[0]} failed:\n{done.stderr[-2000:]}")
    return done


def _importable(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None
