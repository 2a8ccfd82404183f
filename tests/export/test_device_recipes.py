"""Device recipes are consistent with what export can make."""

from __future__ import annotations

import pytest

from glomedge.errors import UsageError
from glomedge_export.device_recipes import DEVICES, device
from glomedge_export.export import TARGETS, resolved_target
from glomedge_export.graph.convert import OPSET


def test_every_recipe_can_be_exported() -> None:
    assert set(DEVICES) == {"generic", "intel-cpu", "jetson-orin", "rtx-workstation"}
    for recipe in DEVICES.values():
        assert recipe.target in TARGETS[recipe.precision]
        assert resolved_target(recipe.precision, recipe.target) == recipe.target
        assert recipe.profile.min <= recipe.profile.opt <= recipe.profile.max
        assert recipe.opset == OPSET
        assert "\n" not in recipe.why


def test_unknown_device_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="jetson-orin"):
        device("toaster")


def test_targets_that_do_not_go_together() -> None:
    assert resolved_target("fp32", "tensorrt") == "any"
    assert resolved_target("fp32", None) == "any"
    assert resolved_target("fp32", "onnxruntime") == "onnxruntime"
    assert resolved_target("int8", None) == "onnxruntime"
    with pytest.raises(UsageError, match="int8 is exported for"):
        resolved_target("int8", "any")
