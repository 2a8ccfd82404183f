"""The gate of preprocessing as ONNX: not one byte, not one answer, may differ from glomedge's own way."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from glomedge.about import __version__
from glomedge.engine.golden import draw_crop
from glomedge.errors import GateError
from glomedge.imaging.enhance import enhance
from glomedge.model.companion import ExactGate
from glomedge.model.spec import Recipe
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.enhancement.graph import INPUT, OUTPUT
from glomedge_export.enhancement.merged import CROPS

Pixels = npt.NDArray[np.uint8]


def golden_crops(side_px: int) -> dict[str, Pixels]:
    """One drawn crop for each way of resizing to that side, one of all hues and a flat one, by what it is.

    Whole numbers only: the same bytes on every platform.
    """
    sizes_px = {
        "at the side": (side_px, side_px),
        "twice the side": (2 * side_px, 2 * side_px),
        "shrunk by whole factors": (2 * side_px, 3 * side_px),
        "shrunk by a fraction": (side_px * 12 // 7 + 1, side_px * 18 // 7 + 1),
        "enlarged": (side_px // 2 + 1, side_px * 2 // 3 + 1),
        "mixed aspect": (side_px * 5 // 2, side_px // 3 + 1),
    }
    crops = {what: _drawn(seed, side_px, *size) for seed, (what, size) in enumerate(sizes_px.items())}
    # Every channel through all its levels against the others: saturated colours that no tissue has.
    rows, columns = np.mgrid[:side_px, :side_px]
    level = np.stack([rows * 255, columns * 255, (side_px - 1 + rows - columns) * 128], axis=-1) // (side_px - 1)
    crops["all hues"] = np.minimum(level, 255).astype(np.uint8)
    crops["flat"] = np.full((side_px, side_px, 3), (187, 121, 166), np.uint8)
    return crops


def _drawn(seed: int, side_px: int, height_px: int, width_px: int) -> Pixels:
    """The golden crop of that seed at another size, with a texture that fills the histogram."""
    crop = draw_crop(seed, side_px)
    rows, columns = np.arange(height_px) * crop.shape[0] // height_px, np.arange(width_px) * crop.shape[1] // width_px
    texture = (np.arange(height_px)[:, np.newaxis] * 7 + np.arange(width_px) * 13 + seed) % 61 - 30
    drawn = crop[rows[:, np.newaxis], columns].astype(np.int64) + texture[:, :, np.newaxis] * (1, -2, 3)
    clipped: Pixels = np.clip(drawn, 0, 255).astype(np.uint8)
    return clipped


def _session(data: bytes) -> tuple[Any, str]:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Threads that wait for the next of many small nodes would otherwise keep a busy machine's cores from their work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session, f"onnxruntime {ort.__version__} CPU"


def enforce_enhancement(graph: bytes, recipe: Recipe) -> ExactGate:
    """Compare a serialised enhancement graph with ``glomedge.enhance``. Raises GateError on any differing byte."""
    session, runtime = _session(graph)
    crops = golden_crops(recipe.size_px)
    for what, crop in crops.items():
        (image,) = session.run([OUTPUT], {INPUT: crop})
        differing = int(np.count_nonzero(image != enhance(crop, recipe)))
        if differing:
            raise GateError(
                f"The enhancement as ONNX (recipe '{recipe.name}', {recipe.size_px} px) is refused: {differing} of "
                f"{image.size} bytes differ from glomedge.enhance on the crop '{what}' ({runtime}, OpenCV "
                f"{cv2.__version__}). Nothing was written. Omit --with-preprocessing and --merged, and report it."
            )
    return ExactGate(
        crops=len(crops), reference=f"glomedge.enhance {__version__}, OpenCV {cv2.__version__}", runtime=runtime
    )


def enforce_merged(merged: bytes, model: bytes, recipe: Recipe) -> ExactGate:
    """Compare a serialised merged graph with ``glomedge.enhance`` and the model after it. Raises GateError."""
    session, runtime = _session(merged)
    alone, _ = _session(model)
    crops = golden_crops(recipe.size_px)
    names = [output.name for output in alone.get_outputs()]
    for what, crop in crops.items():
        # Two crops of one size, so that a mix-up within a batch shows.
        pair = np.stack([crop, crop[::-1, ::-1]])
        images = np.stack([enhance(one, recipe) for one in pair])
        found = session.run(names, {CROPS: pair})
        expected = alone.run(names, {"images": images})
        for name, ours, theirs in zip(names, found, expected, strict=True):
            if not np.array_equal(ours, theirs):
                raise GateError(
                    f"The merged file is refused: its output '{name}' differs from enhancement and model one after the "
                    f"other by up to {np.abs(ours - theirs).max():.2g} on the crop '{what}' ({runtime}). Nothing was "
                    "written. Use --with-preprocessing, which writes two files, and report it."
                )
    return ExactGate(
        crops=2 * len(crops),
        reference=f"glomedge.enhance {__version__}, OpenCV {cv2.__version__}, then the model",
        runtime=runtime,
    )
