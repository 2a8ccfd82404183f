"""A short run of the fuzz target of Keras configurations, and of loading what it lets through."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.decode_target import mutated
from fuzz.keras_config_target import Target, check_message
from fuzz.test_fuzz_spec import places, replaced
from glomedge.errors import ModelError
from helpers.keras2_files import Genuine, unpack

_WORDS = ["Dense", "Lambda", "Conv2D", "TFOpLambda", "keras.layers", "os", "\x1b[2J", "A" * 5000, 10**400]
_KEYS = ["class_name", "config", "module", "layers", "name", "units", "x"]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(_WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=8,
)
SETTINGS = settings(max_examples=150, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def keras2(tmp_path_factory: pytest.TempPathFactory) -> Genuine:
    """Genuine files of the last Keras 2."""
    return unpack(tmp_path_factory.mktemp("keras2"))[-1]


@pytest.fixture(scope="module")
def target(keras2: Genuine, tmp_path_factory: pytest.TempPathFactory) -> Target:
    """The fuzz target, over the genuine weights."""
    with zipfile.ZipFile(keras2.folder / "published.keras") as archive:
        return Target(tmp_path_factory.mktemp("fuzz"), archive.read("model.weights.h5"))


@pytest.fixture(scope="module")
def config(keras2: Genuine) -> dict[str, Any]:
    """The published structure's configuration."""
    with zipfile.ZipFile(keras2.folder / "published.keras") as archive:
        found: dict[str, Any] = json.loads(archive.read("config.json"))
        return found


@SETTINGS
@given(data=st.data())
def test_any_value_in_any_place(target: Target, config: dict[str, Any], data: st.DataObject) -> None:
    changed: Any = config
    for _ in range(data.draw(st.integers(1, 3))):
        changed = replaced(changed, data.draw(st.sampled_from(places(changed))), data.draw(VALUES))
    text = json.dumps(changed)
    target.one_archive(text.encode(), data.draw(st.sampled_from(["2.12.0", "2.15.0", "3.15.1"])))
    target.one_hdf5(text)


@SETTINGS
@given(value=VALUES)
def test_any_json(target: Target, value: Any) -> None:
    assert not target.one_archive(json.dumps(value).encode(), "3.0.0")
    target.one_archive(json.dumps({"class_name": "Functional", "config": value}).encode(), "3.0.0")


def test_mutated_bytes(target: Target, config: dict[str, Any]) -> None:
    rng, text = np.random.default_rng(5), json.dumps(config).encode()
    assert target.one_archive(text, "2.15.0")
    taken = sum(target.one_archive(mutated(text, rng), "2.15.0") for _ in range(300))
    assert 0 < taken < 290


def test_mutated_hdf5(keras2: Genuine, target: Target, tmp_path: Path) -> None:
    rng, whole = np.random.default_rng(6), (keras2.folder / "published.h5").read_bytes()
    path = tmp_path / "mutated.h5"
    taken = 0
    for _ in range(200):
        path.write_bytes(mutated(whole, rng))
        taken += target._described(path)
    assert 0 < taken < 200


@pytest.mark.keras
def test_what_is_let_through_loads_or_is_refused(keras2: Genuine, config: dict[str, Any], tmp_path: Path) -> None:
    """tf_keras raises whatever its parts raise on arguments that make no sense."""
    pytest.importorskip("tf_keras", reason="needs tf_keras: pip install 'glomedge[export]'")
    from glomedge_export.keras_files.load import load

    rng = np.random.default_rng(7)
    values: list[Any] = [None, -1, 0, "x", [], {}, 1e308, True, "float16"]
    inner = [place for place in places(config) if "config" in place and len(place) > 4]
    loaded = refused = 0
    path = tmp_path / "fuzz.h5"
    for _ in range(40):
        changed = replaced(config, inner[int(rng.integers(len(inner)))], values[int(rng.integers(len(values)))])
        path.write_bytes((keras2.folder / "published.h5").read_bytes())
        with h5py.File(path, "r+") as opened:
            opened.attrs["model_config"] = json.dumps(changed)
        try:
            model = load(path)
        except ModelError as error:
            check_message(str(error))
            refused += 1
        else:
            assert model.outputs in (1, 2)
            loaded += 1
    assert loaded
    assert refused
