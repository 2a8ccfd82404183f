"""The model card says what the spec says, and nothing that it does not."""

from __future__ import annotations

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.model.spec import Affine
from glomedge.reports.model_card import fragment, markdown
from helpers.export_specs import example_spec
from helpers.other_networks import SOURCE
from helpers.sites import site_calibration


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


def test_card_of_another_network_says_where_it_comes_from_and_what_is_not_known() -> None:
    affine = Affine(channel_order="BGR", scale=(1.0, 0.5, 2.0), offset=(-103.9, 0.0, 1.0))
    changes = {
        "backbone": "densenet121", "map": "none", "source": SOURCE, "operating_point": None,
        "input_scaling": "affine", "input_affine": affine,
    }  # fmt: skip
    text = markdown(example_spec().model_copy(update=changes), "model.onnx", "e" * 64)
    for expected in (
        "| network | DenseNet121, 224 x 224 px, no exact activation map, 3.480 billion multiply-adds per crop |",
        "| source | Not trained by glomedge: exported from a Keras 2 file, read by tf_keras 2.21.0",
        "| unknown | Not known of this model: its decision threshold (0.42 is assumed), its temperature",
        "input scaling `affine` (BGR, times 1 0.5 2, plus -103.9 0 1)",
        "nothing shows which areas influenced the result",
    ):
        assert expected in text, expected
    own = markdown(example_spec(), "model.onnx", "e" * 64)
    assert "ResNet50V2, 224 x 224 px, exact activation map of 7 x 7 cells" in own
    assert "7 x 7 areas influenced" in own
    assert "Not trained by glomedge" not in own


def test_fragment_says_the_same_and_escapes_it() -> None:
    spec = example_spec()
    assert spec.training is not None
    hostile = spec.model_copy(update={"training": spec.training.model_copy(update={"data_name": "<script>a|b&`"})})
    page = fragment(hostile, "<m>.onnx", "e" * 64)
    assert "<script>" not in page
    assert "<m>" not in page
    assert "&lt;script&gt;a|b&amp;" in page
    headings = [line[3:] for line in markdown(spec, "m.onnx", "e" * 64).splitlines() if line.startswith("## ")]
    assert headings
    assert all(f"<h3>{heading}</h3>" in page for heading in headings)
    for expected in ("<td>auroc</td><td>0.950 (0.900 to 0.980)</td>", "30 true positive", f"<code>{'e' * 64}</code>"):
        assert expected in page
    assert "<em>globally sclerotic</em>" in page


def test_tables_keep_their_columns() -> None:
    """A bar inside a cell would open another column."""
    text = markdown(example_spec(), "model.onnx", "e" * 64)
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 4
    for block in tables:
        assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_a_recalibrated_model_says_for_whom_and_from_what() -> None:
    spec = example_spec().model_copy(update={"site": site_calibration(site="<b>Lab</b>")})
    text = markdown(spec, "model.onnx", "e" * 64)
    for expected in (
        "## Recalibrated for one site",
        "Recalibrated for <b>Lab</b> on 2026-01-02T00:00:00+00:00",
        "e" * 64,
        "30 labelled crops of 9 biopsies, 11 of them globally sclerotic, read by Ada; weighted, they are worth 24.5",
        "Logit times 0.625 (standard error 0.200) plus +1.750 (0.500)",
        "Sensitivity 30 of 32, specificity 60 of 63",
        "measured on the model before it was recalibrated",
    ):
        assert expected in text, expected
    assert "Not calibrated here" not in text
    assert "<b>Lab" not in fragment(spec, "model.onnx", "e" * 64)


def test_a_model_of_no_site_says_what_that_means() -> None:
    text = markdown(example_spec(), "model.onnx", "e" * 64)
    assert "Recalibrated for" not in text
    assert "Not calibrated here" in text
    assert "Label 30 of your crops" in text


def test_how_the_weights_were_trained() -> None:
    spec = example_spec()
    assert "sgd, learning rate 0.001, batch 32, best of 7 epochs: 5. Threshold rule" in markdown(
        spec, "m.onnx", "e" * 64
    )
    assert spec.training is not None
    changed = {"weights": "none", "epochs": 0, "best_epoch": 0, "pretrain_epochs": 8, "pretrain_window_px": 80}
    text = markdown(spec.model_copy(update={"training": spec.training.model_copy(update=changed)}), "m.onnx", "e" * 64)
    assert "Initial weights: none, all layers trained for 8 epochs on windows of 80 pixels." in text
    assert "Batch 32; no fit followed. Threshold rule" in text
