"""Ways from crops to answers that a user could take instead of glomedge, and glomedge itself.

Each way is a function ``make(context) -> run``: it loads what it needs, and ``run()`` answers every crop once. In mode
``engine`` the crops are in memory, already enhanced; in mode ``files`` the way starts from the image files. All of them
enhance with the model's own recipe (``glomedge.enhance``), so that all answer the same question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Mode = Literal["engine", "files"]
Run = Callable[[], list[float]]
"""Answers every crop once: probabilities in the order of the files."""


@dataclass(frozen=True)
class Context:
    """What a way is given.

    Attributes:
        mode: ``engine`` (enhanced crops in memory) or ``files``.
        folder: the crops.
        artifacts: folder with ``model.keras``, ``model.onnx``, ``plain.onnx`` (bare tf2onnx), the int8 files.
        enhanced: ``.npy`` of the enhanced crops, uint8 ``[N, 224, 224, 3]``.
        scratch: an empty folder for this way only.
    """

    mode: Mode
    folder: Path
    artifacts: Path
    enhanced: Path
    scratch: Path

    def files(self) -> list[Path]:
        """The crops, in the order in which glomedge takes them."""
        return sorted(path for path in self.folder.rglob("*.png"))

    def images(self) -> npt.NDArray[np.uint8]:
        """The enhanced crops, uint8 ``[N, 224, 224, 3]``."""
        images: npt.NDArray[np.uint8] = np.load(self.enhanced, allow_pickle=False)
        return images


WAYS: dict[str, str] = {
    "published script": "benchmarks.ways.keras_ways:published_script",
    "Keras predict": "benchmarks.ways.keras_ways:predict",
    "Keras tf.function": "benchmarks.ways.keras_ways:function",
    "onnxruntime tutorial": "benchmarks.ways.onnxruntime_tutorial:loop",
    "glomedge fp32 cpu": "benchmarks.ways.glomedge_ways:fp32_cpu",
    "glomedge fp32 cpu, its own file": "benchmarks.ways.glomedge_ways:fp32_cpu_own",
    "glomedge int8 cpu": "benchmarks.ways.glomedge_ways:int8_cpu",
    "glomedge fp32 openvino": "benchmarks.ways.glomedge_ways:fp32_openvino",
    "glomedge bf16 openvino": "benchmarks.ways.glomedge_ways:bf16_openvino",
    "glomedge int8 openvino": "benchmarks.ways.glomedge_ways:int8_openvino",
    "glomedge fp32 cuda": "benchmarks.ways.glomedge_ways:fp32_cuda",
    "glomedge fp16 cuda": "benchmarks.ways.glomedge_ways:fp16_cuda",
    "glomedge fp16 tensorrt": "benchmarks.ways.glomedge_ways:fp16_tensorrt",
    "glomedge int8 tensorrt": "benchmarks.ways.glomedge_ways:int8_tensorrt",
}
"""Name in the tables -> module and function, slowest first."""
