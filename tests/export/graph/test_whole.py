"""What a whole TensorFlow function cannot be converted to is refused before its minute of conversion."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from glomedge.errors import ModelError

pytest.importorskip("tensorflow", reason="needs the extra glomedge[export]")
pytestmark = pytest.mark.keras


def test_an_operation_that_onnx_lacks_is_refused_by_its_name() -> None:
    from glomedge_export.frameworks import tf
    from glomedge_export.graph.whole import freeze, skeleton

    answer = tf.function(lambda images: tf.sigmoid(tf.reduce_mean(tf.math.lgamma(images), (1, 2))))
    frozen = freeze(SimpleNamespace(side_px=32, outputs=3, inference=lambda: answer))
    with pytest.raises(ModelError, match=r"operations that ONNX does not have \(Lgamma\)"):
        skeleton(frozen)


def test_grouped_convolutions_of_a_saved_model_are_refused(tmp_path: Path) -> None:
    from glomedge_export.frameworks import keras
    from glomedge_export.graph.foreign import survey
    from glomedge_export.keras_files.load import load
    from helpers.foreign_models import small

    small(keras, body="convnext").export(tmp_path / "saved", verbose=False)
    with pytest.raises(ModelError, match=r"grouped convolutions\. Save it as \.keras or \.h5"):
        survey(load(tmp_path / "saved"))
