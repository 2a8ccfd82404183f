"""Running an enhancement graph in tests."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.imaging.enhance import enhance
from glomedge.model.spec import Recipe
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.enhancement.graph import enhancement_graph

Pixels = npt.NDArray[np.uint8]


@functools.lru_cache(maxsize=64)
def session(recipe: Recipe, threads: int = 1, optimised: bool = True) -> Any:
    """An onnxruntime session of the recipe's graph."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(
        enhancement_graph(recipe).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def as_onnx(crop: Pixels, recipe: Recipe, threads: int = 1, optimised: bool = True) -> Pixels:
    """What the graph makes of a crop."""
    (image,) = session(recipe, threads, optimised).run(["image"], {"crop": crop})
    assert image.dtype == np.uint8
    assert image.shape == (recipe.size_px, recipe.size_px, 3)
    made: Pixels = image
    return made


def differing_bytes(crop: Pixels, recipe: Recipe, **options: Any) -> int:
    """How many bytes of the graph's image are not those of ``glomedge.enhance``."""
    return int(np.count_nonzero(as_onnx(crop, recipe, **options) != enhance(crop, recipe)))
