"""What would send or write something on import is imported in one place, after it was silenced."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from glomedge.system import telemetry
from glomedge.system.telemetry import ONNXRUNTIME_OPT_OUTS
from helpers.paths import ROOT

GUARDED = ("onnxruntime", "openvino", "keras", "tf_keras", "tensorflow", "matplotlib", "ray")
THE_PLACES = ("glomedge/system/telemetry.py", "export/glomedge_export/frameworks.py")
# Called with a module's name; tests may skip by it what tests/conftest.py has silenced.
_BY_NAME = ("import_module", "__import__", "importorskip")
_SKIPPED_BY = ("keras", "tf_keras", "tensorflow", "matplotlib")


def _sources() -> list[Path]:
    found = [path for folder in ("glomedge", "export", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert len(found) > 250
    return found


def _imports(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Line, module and whether it is only looked for to skip a test, of every import in a source."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name, False) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or "", False
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in _BY_NAME:
                yield node.lineno, str(node.args[0].value), called == "importorskip"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            # Source of a child process.
            try:
                inner = ast.parse(node.value)
            except (SyntaxError, ValueError):
                continue
            yield from ((node.lineno, module, skips) for _, module, skips in _imports(inner))


def _stray(source: str) -> list[str]:
    return [
        f"{line}: {module}"
        for line, module, skips in _imports(ast.parse(source))
        if module.partition(".")[0] in GUARDED and not (skips and module in _SKIPPED_BY)
    ]


def test_each_is_imported_in_one_place() -> None:
    found = []
    for path in _sources():
        name = path.relative_to(ROOT).as_posix()
        # This file's own examples, the proof that a blocked import is refused, and what runs in another environment.
        others = (
            "tests/privacy/test_one_import.py",
            "tests/cli/test_imports.py",
            "tests/tools/make_keras2.py",
            "tests/tools/triton_standin.py",
        )
        if name not in (*THE_PLACES, *others):
            found += [f"{name}:{stray}" for stray in _stray(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import onnxruntime as ort",
        "def f():\n    from onnxruntime.capi import x",
        "from openvino import Core",
        "importlib.import_module('openvino')",
        "pytest.importorskip('openvino')",
        "code = 'import keras; keras.Model()'",
        "import os, matplotlib.pyplot as plt",
    ],
)
def test_every_way_of_importing_is_seen(source: str) -> None:
    assert len(_stray(source)) == 1


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*ONNXRUNTIME_OPT_OUTS, "KERAS_HOME", "MPLCONFIGDIR", "CUDA_CACHE_PATH"):
        monkeypatch.setenv(name, "kept for monkeypatch, which puts back what was there")
        monkeypatch.delenv(name)
    return monkeypatch


def test_both_names_of_the_opt_out_are_set_and_handed_to_children(unset: pytest.MonkeyPatch) -> None:
    telemetry.silence()
    assert {name: os.environ.get(name) for name in ONNXRUNTIME_OPT_OUTS} == dict.fromkeys(ONNXRUNTIME_OPT_OUTS, "1")


@pytest.mark.parametrize("name", ONNXRUNTIME_OPT_OUTS)
def test_a_users_own_choice_is_kept_and_said(unset: pytest.MonkeyPatch, name: str) -> None:
    unset.setenv(name, "0")
    telemetry.silence()
    assert [os.environ.get(other) for other in ONNXRUNTIME_OPT_OUTS if other != name] == [None]
    assert os.environ[name] == "0"
    (onnxruntime,) = (state for state in telemetry.telemetry() if state.package == "onnxruntime")
    assert not onnxruntime.off
    assert f"{name}=0" in onnxruntime.how


@pytest.mark.parametrize("name", ONNXRUNTIME_OPT_OUTS)
def test_an_opt_out_by_one_name_counts_for_both(unset: pytest.MonkeyPatch, name: str) -> None:
    unset.setenv(name, "true")
    telemetry.silence()
    assert {os.environ[other] for other in ONNXRUNTIME_OPT_OUTS} == {"true", "1"}


def test_telemetry_is_off_where_nothing_is_set(unset: pytest.MonkeyPatch) -> None:
    assert all(state.off for state in telemetry.telemetry())
    assert not any(name in os.environ for name in ONNXRUNTIME_OPT_OUTS)  # asking changes nothing


def test_rays_statistics_are_off_before_it_is_imported(unset: pytest.MonkeyPatch) -> None:
    for name in telemetry.RAY_OPT_OUTS:
        unset.setenv(name, "kept for monkeypatch, which puts back what was there")
        unset.delenv(name)
    seen = {}

    class Finder:
        def find_spec(self, name: str, *given: object) -> None:
            if name == "ray":
                seen.update({option: os.environ.get(option) for option in telemetry.RAY_OPT_OUTS})

    unset.delitem(sys.modules, "ray", raising=False)
    unset.setattr(sys, "meta_path", [Finder()])
    with pytest.raises(ImportError):
        telemetry.import_ray()
    assert seen == {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_PROMPT_ENABLED": "0"}


def test_keras_folder_of_the_users_stays_in_use(unset: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".keras").mkdir()
    unset.setenv("HOME", str(tmp_path))
    unset.delenv("XDG_CACHE_HOME", raising=False)
    telemetry.silence_tensorflow()
    assert "KERAS_HOME" not in os.environ
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / ".cache" / "glomedge" / "matplotlib")
    # Engines lie beside it: nobody else may write there, whatever the umask.
    assert (tmp_path / ".cache" / "glomedge").stat().st_mode & 0o077 == 0


def test_without_a_home_keras_writes_into_a_temporary_folder(unset: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unset.setattr(telemetry, "cache_folder", lambda: None)
    unset.setattr(telemetry, "home", lambda: None)
    unset.setattr("tempfile.mkdtemp", lambda prefix: str(tmp_path / prefix))
    telemetry.silence_tensorflow()
    assert os.environ["KERAS_HOME"] == str(tmp_path / "glomedge-" / "keras")


def test_the_hidden_package_is_back_afterwards(unset: pytest.MonkeyPatch) -> None:
    package, part = ModuleType("openvino_telemetry"), ModuleType("openvino_telemetry.backend")
    unset.setitem(sys.modules, "openvino_telemetry", package)
    unset.setitem(sys.modules, "openvino_telemetry.backend", part)
    with telemetry._hidden("openvino_telemetry"):
        assert sys.modules["openvino_telemetry"] is None
        assert "openvino_telemetry.backend" not in sys.modules
    assert sys.modules["openvino_telemetry"] is package
    assert sys.modules["openvino_telemetry.backend"] is part
