"""Keras and TensorFlow, imported in this one place: what they would write into the user's home is silenced before."""

from __future__ import annotations

from typing import Any

from glomedge.system.telemetry import silence_tensorflow

silence_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers, ops  # noqa: E402

__all__ = ["frozen_function", "import_tf_keras", "keras", "layers", "ops", "tf", "traced"]


def import_tf_keras() -> Any:
    """Keras 2 as the package ``tf_keras``, for files of Keras 2; it stands beside Keras 3 and does not replace it.

    ``TF_USE_LEGACY_KERAS`` stays unset: with it, ``tf.keras`` of the whole process would be Keras 2. Raises
    ImportError where the package is missing.
    """
    import tf_keras

    return tf_keras


def frozen_function(concrete: Any) -> Any:
    """A concrete function with its variables made constants and its calls inlined (TensorFlow has no public name)."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(concrete, lower_control_flow=False)


def traced(function: Any, *signature: Any) -> Any:
    """The concrete function of a ``tf.function``, with those that it calls written into it.

    Keras computes grouped convolutions in a function of its own that asks for XLA, which nothing inlines afterwards.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        return function.get_concrete_function(*signature)
    finally:
        tf.config.run_functions_eagerly(before)
