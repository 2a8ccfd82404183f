"""onnxruntime as a tutorial shows it: tf2onnx's own conversion, default session, one image at a time."""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.ways import Context, Run
from glomedge.imaging.enhance import enhance
from glomedge.model.file import read_model_file
from glomedge.system.telemetry import import_onnxruntime


def loop(context: Context) -> Run:
    """Pillow, enhance, ``session.run`` on a batch of one, in one loop."""
    ort = import_onnxruntime()

    session = ort.InferenceSession(str(context.artifacts / "plain.onnx"), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    recipe = read_model_file(context.artifacts / "model.onnx").spec.recipe
    images = context.images()

    def answer(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> float:
        return float(np.ravel(session.run(None, {name: image[np.newaxis].astype(np.float32)})[0])[0])

    def run() -> list[float]:
        if context.mode == "engine":
            return [answer(image) for image in images]
        return [answer(enhance(np.asarray(Image.open(path).convert("RGB")), recipe)) for path in context.files()]

    return run
