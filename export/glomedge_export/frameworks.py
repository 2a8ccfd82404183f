"""Keras and TensorFlow, imported in this one place: what they would write into the user's home is silenced before."""

from __future__ import annotations

from glomedge.system.telemetry import silence_tensorflow

silence_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers, ops  # noqa: E402

__all__ = ["keras", "layers", "ops", "tf"]
