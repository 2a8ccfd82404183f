"""A short, seeded run of the spec's fuzz target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuzz.decode_target import mutated
from fuzz.spec_target import body, one_file, one_spec, resealed
from glomedge.model.file import read_model_file
from helpers.export_specs import example_spec

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**400, 1e308, -0.0, "", "\x00", "\x1b[2J", "\u202e", "9" * 5000, [], [[]], {}, {"": 0},
)  # fmt: skip
# JSON that Python's own writer would not make.
RAW = (b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b"[" * 5000, b'"\xff"', b"1.", b"{", b"")


@pytest.fixture
def sealed_file(tiny_model: Path) -> bytes:
    return tiny_model.read_bytes()


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document, the containers included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def replaced(value: Any, place: tuple[Any, ...], by: Any) -> Any:
    """The document with something else in that place."""
    if not place:
        return by
    key, *rest = place
    if isinstance(value, dict):
        return value | {key: replaced(value[key], tuple(rest), by)}
    return [replaced(item, tuple(rest), by) if at == key else item for at, item in enumerate(value)]


def test_the_seal_of_the_target_is_the_seal(sealed_file: bytes) -> None:
    assert resealed(body(sealed_file)) == sealed_file


def test_every_value_in_every_place() -> None:
    document = json.loads(example_spec().to_json())
    marker = '"\u00abhere\u00bb"'
    taken = {True: 0, False: 0}
    for place in places(document):
        for value in VALUES:
            taken[one_spec(json.dumps(replaced(document, place, value)).encode())] += 1
        around = json.dumps(replaced(document, place, json.loads(marker)), ensure_ascii=False).encode()
        for raw in RAW:
            taken[one_spec(around.replace(marker.encode(), raw))] += 1
    assert taken[True] > 100
    assert taken[False] > 500


def test_mutated_specs(tiny_model: Path) -> None:
    rng = np.random.default_rng(8)
    # The second has golden pixels that can be unpacked, but they are most of its text, and one string to the reader.
    for spec in (example_spec(), read_model_file(tiny_model).spec):
        text = spec.to_json().encode()
        taken = sum(one_spec(mutated(text, rng)) for _ in range(1500))
        assert 20 < taken < 1480


def test_mutated_files_under_a_right_seal(tmp_path: Path, sealed_file: bytes) -> None:
    rng = np.random.default_rng(9)
    whole = body(sealed_file)
    assert one_file(tmp_path / "model.onnx", whole)
    taken = sum(one_file(tmp_path / "model.onnx", mutated(whole, rng)) for _ in range(2000))
    assert 20 < taken < 1980
