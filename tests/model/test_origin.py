"""What is said of a model's network, its source, and what is not known of it."""

from __future__ import annotations

import pytest

from glomedge.model import origin
from glomedge.model.spec import Golden, InputSpec, ModelSource, ModelSpec
from helpers.export_specs import example_spec
from helpers.other_networks import SOURCE


def changed(**fields: object) -> ModelSpec:
    return example_spec().model_copy(update=fields)


def test_own_model_of_which_all_is_known() -> None:
    spec = example_spec()
    assert origin.network(spec) == "ResNet50V2, 224 x 224 px, exact activation map of 7 x 7 cells"
    assert origin.source(spec) is None
    assert origin.unknown(spec) is None
    assert not origin.threshold_is_unknown(spec)


def test_own_model_without_an_operating_point() -> None:
    assert origin.unknown(changed(operating_point=None)) == (
        "Not known of this model: its sensitivity and specificity (no percentage is corrected for them)."
    )


def test_another_network() -> None:
    golden = Golden(
        seed=1, side_px=299, pixels_zlib_base64="", probability=0.5, pixel_tolerance=3, probability_tolerance=0.05
    )
    spec = changed(backbone="inceptionv3", map="none", input=InputSpec(height_px=299, width_px=299), golden=golden)
    assert origin.network(spec) == "InceptionV3, 299 x 299 px, no exact activation map"
    assert origin.network(changed(backbone="xception")).startswith("xception, ")


def test_a_foreign_model_of_which_nothing_is_known() -> None:
    spec = changed(source=SOURCE, operating_point=None)
    assert origin.source(spec) == (
        f"Not trained by glomedge: exported from a Keras 2 file, read by tf_keras 2.21.0, SHA-256 {'a' * 64}; recipe "
        "given, input scaling given."
    )
    assert origin.unknown(spec) == (
        "Not known of this model: its decision threshold (0.42 is assumed), its temperature (probabilities are not "
        "calibrated) and its sensitivity and specificity (no percentage is corrected for them)."
    )
    assert origin.threshold_is_unknown(spec)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"threshold_from": "measured", "temperature_from": "measured"}, None),
        ({"threshold_from": "given"}, "Not known of this model: its temperature (probabilities are not calibrated)."),
        ({"temperature_from": "measured"}, "Not known of this model: its decision threshold (0.42 is assumed)."),
    ],
)
def test_what_was_given_or_measured_is_known(told: dict[str, str], words: str | None) -> None:
    source = ModelSource.model_validate(SOURCE.model_dump() | told)
    assert origin.unknown(changed(source=source)) == words


def test_class_order_and_scaling_are_said_where_they_were_asked_for() -> None:
    told = {"class_order_from": "given", "scaling_from": "found in the model", "file_format": "savedmodel"}
    said = origin.source(changed(source=ModelSource.model_validate(SOURCE.model_dump() | told)))
    assert said is not None
    assert said.endswith("recipe given, input scaling found in the model, class order given.")
    assert "a SavedModel folder" in said
