"""A Keras model and its conversion, for the parity suite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx

from glomedge.model.spec import InputScaling


@dataclass(frozen=True)
class Pair:
    """A Keras model and the ONNX graph made from it."""

    scaling: InputScaling
    keras_model: Any
    onnx_model: onnx.ModelProto
