"""ModelSpec: frozen, strict, and the same after a round trip."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.engine import loading
from glomedge.errors import ModelError
from glomedge.model import file
from glomedge.model.file import read_model_file
from glomedge.model.spec import Golden, ModelSpec, Recipe
from helpers import builders


@pytest.fixture
def spec(tiny_model: Path) -> ModelSpec:
    return read_model_file(tiny_model).spec


def test_round_trip(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert ModelSpec.from_json(spec.to_json().encode()) == spec
    assert spec.notice == RESEARCH_USE_NOTICE


def test_microns_per_pixel_stand_in_the_spec_where_they_are_known(spec: ModelSpec) -> None:
    assert '"mpp"' not in spec.to_json(), "a file without them has the bytes that it always had"
    known = spec.model_copy(update={"mpp": 0.25})
    assert ModelSpec.from_json(known.to_json()) == known
    for absurd in (0.0, 352.8):
        with pytest.raises(ModelError, match="mpp"):
            ModelSpec.from_json(spec.model_copy(update={"mpp": absurd}).to_json())


def test_frozen(spec: ModelSpec) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec.threshold = 0.9  # type: ignore[misc]  # the point of the test
    with pytest.raises(ValidationError, match="frozen"):
        spec.recipe.hue_degrees = 0.0  # type: ignore[misc]  # the point of the test


BAD: list[tuple[str, Any]] = [
    ("schema_version", 3),
    ("threshold", 0.0),
    ("threshold", 1.0),
    ("threshold", "high"),
    ("temperature", 0.0),
    ("temperature", -1.0),
    ("class_names", ["one"]),
    ("precision", "fp8"),
    ("target", "abacus"),
    ("input_scaling", "rainbow"),
    ("input_affine", {"scale": [1, 1, 1], "offset": [0, 0, 0]}),
    ("backbone", "ResNet 50"),
    ("map", "perhaps"),
    ("map_cells", 0),
    ("map_placement", {"first_px": 0, "pitch_px": 0}),
    ("source", {"file_format": "pickle"}),
    ("weights_sha256", "xyz"),
    ("multiply_adds", -1),
    ("recipe", {"name": "secret"}),
    ("recipe", {"name": "seed", "size_px": 299}),
    ("input", {"height_px": 224, "width_px": 225}),
    ("input", {"height_px": 299, "width_px": 299}),
    ("input", {"height_px": 31, "width_px": 31}),
    ("input", {"height_px": 1025, "width_px": 1025}),
    ("input", {"dtype": "float32"}),
    ("input", {"channel_order": "BGR"}),
    ("batch_profile", {"min": 0}),
    ("golden", None),
    ("surprise", 1),
]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_each_bad_field_is_refused_by_name(spec: ModelSpec, field: str, value: Any) -> None:
    document = json.loads(spec.to_json()) | {field: value}
    with pytest.raises(ModelError, match=field):
        ModelSpec.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input": {"height_px": 96, "width_px": 97}}, "the input is 96 x 97 px, but only square inputs are known"),
        (
            {"input": {"height_px": 96, "width_px": 96}},
            "the input's side is 96 px, the recipe's 224, the self-test's 224",
        ),
        (
            {"input": {"height_px": 96, "width_px": 96}, "recipe": {"size_px": 96}},
            "the input's side is 96 px, the recipe's 96, the self-test's 224",
        ),
        ({"input_scaling": "affine"}, "input_affine belongs to the input scaling 'affine'"),
        (
            {"input_affine": {"scale": [1.0, 1.0, 1.0], "offset": [0.0, 0.0, 0.0]}},
            "input_affine belongs to the input scaling 'affine'",
        ),
        ({"input_scaling": "affine", "input_affine": {"scale": [1.0], "offset": [0.0]}}, "input_affine.scale"),
        ({"map": "none", "map_placement": {"first_px": 0.0, "pitch_px": 32.0}}, "this network has none"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(spec: ModelSpec, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        ModelSpec.from_json(json.dumps(json.loads(spec.to_json()) | changes))
    assert len(str(caught.value)) < 500


def test_an_affine_scaling_of_its_own_is_kept(spec: ModelSpec) -> None:
    affine = {"channel_order": "BGR", "scale": [1.0, 2.0, 3.0], "offset": [-1.0, 0.0, 1.0]}
    document = json.loads(spec.to_json()) | {"input_scaling": "affine", "input_affine": affine}
    read = ModelSpec.from_json(json.dumps(document))
    assert read.input_affine is not None
    assert read.input_affine.scale == (1.0, 2.0, 3.0)
    assert ModelSpec.from_json(read.to_json()) == read


NEW_IN_VERSION_2 = ("input_affine", "backbone", "map", "map_cells", "map_placement", "source")


def as_version_1(spec: ModelSpec) -> str:
    """The spec as a glomedge before schema version 2 wrote it: none of the fields that came with that version."""
    document = json.loads(spec.to_json()) | {"schema_version": 1}
    for field in NEW_IN_VERSION_2:
        del document[field]
    del document["golden"]["side_px"]
    return json.dumps(document)


def test_a_file_of_version_1_still_loads_and_answers(tmp_path: Path) -> None:
    graph = builders.tiny_graph().SerializeToString()
    now = builders.tiny_spec(graph)
    old = as_version_1(now)
    path = tmp_path / "old.onnx"
    # Sealed by hand: ``sealed`` writes today's fields.
    body = graph + file._entry(file.SPEC_KEY, old)
    path.write_bytes(body + file._seal(hashlib.sha256(body).hexdigest()))
    with loading.load(path, "cpu") as engine:
        assert engine.spec == now.model_copy(update={"schema_version": 1})
        assert (engine.spec.backbone, engine.spec.map_shape, engine.spec.source) == ("resnet50v2", (7, 7), None)
        answer = engine.predict(np.full((50, 60, 3), 90, np.uint8))[0]
    assert answer.activation is not None
    assert answer.activation.shape == (7, 7)


@pytest.mark.parametrize("field", ["producer", "recipe", "opset", "weights_sha256", "golden"])
def test_each_missing_field_is_refused_by_name(spec: ModelSpec, field: str) -> None:
    document = json.loads(spec.to_json())
    del document[field]
    with pytest.raises(ModelError, match=field):
        ModelSpec.from_json(json.dumps(document))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_not_finite_are_refused(spec: ModelSpec, number: str) -> None:
    text = spec.to_json().replace('"hue_degrees":8.0', f'"hue_degrees":{number}')
    assert text != spec.to_json()
    with pytest.raises(ModelError):
        ModelSpec.from_json(text)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"spec"', "\x00"])
def test_what_is_not_a_document_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="Export the model again"):
        ModelSpec.from_json(text)


def test_golden_pixels_round_trip() -> None:
    pixels = np.arange(224 * 224 * 3, dtype=np.uint32).astype(np.uint8).reshape(224, 224, 3)
    golden = Golden(
        seed=1,
        pixels_zlib_base64=Golden.pack(pixels),
        probability=0.5,
        pixel_tolerance=1,
        probability_tolerance=0.1,
    )
    np.testing.assert_array_equal(golden.pixels(), pixels)


def test_a_golden_bomb_does_not_inflate() -> None:
    import base64
    import zlib

    bomb = base64.b64encode(zlib.compress(b"\0" * 50_000_000, 9)).decode()
    golden = Golden(seed=1, pixels_zlib_base64=bomb, probability=0.5, pixel_tolerance=1, probability_tolerance=0.1)
    assert golden.pixels().nbytes == 224 * 224 * 3


@pytest.mark.parametrize(
    ("name", "hue", "equalise"), [("seed", 8.0, True), ("published", 0.0, True), ("plain", 0.0, False)]
)
def test_named_recipes(name: str, hue: float, equalise: bool) -> None:
    recipe = Recipe.named(name)
    assert (recipe.name, recipe.hue_degrees, recipe.equalise) == (name, hue, equalise)


def test_an_unknown_recipe_lists_the_names() -> None:
    with pytest.raises(ValueError, match="seed, published or plain"):
        Recipe.named("rainbow")


def test_the_spec_of_a_built_model_describes_its_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    spec = builders.build_tiny_model(path, recipe="plain", temperature=2.0, threshold=0.3)
    assert (spec.recipe.name, spec.temperature, spec.threshold) == ("plain", 2.0, 0.3)
