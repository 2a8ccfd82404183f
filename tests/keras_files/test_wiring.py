"""Configurations that tf_keras would wait for without end, and sizes that would take all memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from glomedge.errors import ModelError
from glomedge_export.keras_files.identify import identify
from glomedge_export.keras_files.safety import check
from glomedge_export.keras_files.wiring import wrong_wiring
from helpers.keras2_files import Genuine


def model(**calls: Any) -> dict[str, Any]:
    """A Functional configuration of Keras 2: layers by name, with their calls."""
    layers: list[dict[str, Any]] = [{"class_name": "InputLayer", "config": {}, "name": "in", "inbound_nodes": []}]
    layers += [
        {"class_name": "Dense", "config": {}, "name": name, "inbound_nodes": made} for name, made in calls.items()
    ]
    return {"class_name": "Functional", "config": {"layers": layers, "input_layers": [["in", 0, 0]]}}


WAITS = "layers that wait for each other, or for a call that is never made"


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ({"a": [[["in", 0, 0, {}]]], "b": [[["a", 0, 0, {}]]]}, None),
        # Later in the list than what needs it, and called twice.
        ({"b": [[["a", 1, 0, {}]]], "a": [[["in", 0, 0, {}]], [["in", 0, 0, {}]]]}, None),
        ({"a": [["in", 0, 0, {"y": ["in", 0, 0]}]]}, None),
        ({"a": [[["in", 0, 0, {}]], [["b", 0, 0, {}]]], "b": [[["a", 0, 0, {}]]]}, None),
        ({"a": [[["b", 0, 0, {}]]], "b": [[["a", 0, 0, {}]]]}, WAITS),
        ({"a": [[["a", 0, 0, {}]]]}, WAITS),
        ({"a": [[["in", 0, 0, {}]]], "b": [[["a", 1, 0, {}]]]}, WAITS),
        ({"a": [[["in", 0, 0, {}]]], "b": [[["a", -1, 0, {}]]]}, WAITS),
        ({"a": [[["in", 0, 0, {}]]], "b": [[["a", "x", 0, {}]]]}, WAITS),
        ({"a": [["in", 0, 0, {"y": ["b", 0, 0]}]], "b": [[["a", 0, 0, {}]]]}, WAITS),
    ],
)
def test_calls(calls: dict[str, Any], expected: str | None) -> None:
    assert wrong_wiring(model(**calls), is_keras3=False) == expected
    assert wrong_wiring(model(**calls), is_keras3=True) is None
    nested = {"class_name": "Functional", "config": {"layers": [model(**calls)], "input_layers": []}}
    assert wrong_wiring(nested, is_keras3=False) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [("units", 1 << 30), ("filters", 10**400), ("kernel_size", [1, 1 << 20]), ("target_shape", [[1e9]])],
)
def test_sizes(key: str, value: Any) -> None:
    config = model(a=[[["in", 0, 0, {}]]])
    config["config"]["layers"][1]["config"] = {"kernel_size": [3, 3], "seed": 1 << 40, key: value}
    for is_keras3 in (False, True):
        assert wrong_wiring(config, is_keras3) == f"a layer whose {key} no classifier has"


def test_genuine_files_can_be_built(genuine: dict[str, Genuine]) -> None:
    for made in genuine.values():
        for structure in made.made["structures"]:
            for path in made.files(structure):
                file = identify(path)
                if file.config is not None:
                    assert wrong_wiring(file.config, is_keras3=False) is None


def test_a_changed_file_is_refused_instead_of_waited_for(with_config: Callable[..., Path]) -> None:
    def waits(config: dict[str, Any]) -> None:
        config["config"]["layers"][-1]["inbound_nodes"][0][0][1] = 7

    for h5 in (False, True):
        path = with_config(waits, h5)
        with pytest.raises(ModelError, match="a call that is never made"):
            check(identify(path))
    with h5py.File(path, "r") as opened:
        assert json.loads(opened.attrs["model_config"])["config"]["layers"][-1]["inbound_nodes"][0][0][1] == 7
