"""Keras and TensorFlow, imported in this one place: what they would write into the user's home is silenced before."""

from __future__ import annotations

from typing import Any

from glomedge.system.telemetry import silence_tensorflow

silence_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers, ops  # noqa: E402

__all__ = ["frozen_function", "keras", "layers", "ops", "tf"]


def frozen_function(concrete: Any) -> Any:
    """A concrete function with its variables made constants and its calls inlined (TensorFlow has no public name)."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(concrete, lower_control_flow=False)
