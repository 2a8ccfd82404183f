"""How TensorFlow is started: which kernels it uses is settled before it is imported."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import pytest

from glomedge_export.quiet_tensorflow import start_tensorflow


@pytest.mark.parametrize(
    ("given", "exact", "expected"), [(None, False, "1"), (None, True, "0"), ("0", False, "0"), ("1", True, "1")]
)
def test_onednn_is_used_but_where_answers_are_compared_or_the_user_decides(
    monkeypatch: pytest.MonkeyPatch, given: str | None, exact: bool, expected: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", ModuleType("tensorflow"))  # loaded: nothing is imported here
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given or "")
    if given is None:
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    start_tensorflow(exact=exact)
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == expected
