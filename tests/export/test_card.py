"""The model card says what the spec says, and nothing that it does not."""

from __future__ import annotations

from export_specs import example_spec

from glomedge.notice import RESEARCH_USE_NOTICE
from glomedge_export.card import markdown


def test_card_of_a_full_spec() -> None:
    text = markdown(example_spec(), "model.int8.onnxruntime.onnx", "e" * 64)
    for expected in (
        "# Model card: model.int8.onnxruntime.onnx",
        RESEARCH_USE_NOTICE,
        "probability >= 0.42",
        "3.480 billion multiply-adds",
        "saturation x 1.5",
        "hue +8 degrees",
        "| auroc | 0.950 (0.900 to 0.980) |",
        "30 true positive",
        "1 of 200 crops",
        "entropy ranges from 2 crops of 1 biopsies",
        "`" + "e" * 64 + "`",
        "metrics are optimistic",
    ):
        assert expected in text, expected


def test_card_of_a_bare_spec_admits_what_is_unknown() -> None:
    bare = example_spec().model_copy(
        update={"training": None, "operating_point": None, "parity": None, "calibration": None, "temperature": 1.0}
    )
    text = markdown(bare, "model.onnx", "e" * 64)
    assert "without a training record" in text
    assert "None were measured." in text
    assert "Not measured." in text
    assert "not calibrated" in text
    assert "auroc" not in text
