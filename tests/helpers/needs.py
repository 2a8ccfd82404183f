"""Skips for what is not installed, without importing it: an import can already send something."""

from __future__ import annotations

import importlib.util

import pytest


def needs_openvino() -> None:
    """Skip the test where the openvino runtime is not installed."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed: pip install openvino")
