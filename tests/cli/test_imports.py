"""The edge side stands alone: every module and --help works where the workstation's packages cannot be imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from helpers.paths import ROOT

BLOCKED = (
    "tensorflow",
    "keras",
    "tf_keras",
    "tf2onnx",
    "onnx",
    "tensorrt",
    "tensorrt_rtx",
    "sklearn",
    "matplotlib",
    "openslide",
    "shapely",
)

_BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ImportError("blocked: " + name)
        return None

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, {str(ROOT)!r})
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _BLOCKER + code, *arguments], capture_output=True, text=True, check=False, timeout=300
    )


def test_the_blocker_blocks() -> None:
    done = run("import keras")
    assert done.returncode != 0
    assert "blocked: keras" in done.stderr


def test_every_edge_module_imports_without_the_workstation() -> None:
    done = run(
        """
import importlib, importlib.util, pkgutil, glomedge
names = [module.name for module in pkgutil.walk_packages(glomedge.__path__, "glomedge.")]
assert len(names) > 20, names
for name in names:
    # The server's files need the extras `serve` and `grpc`; the command says so where they are missing.
    served = name.startswith("glomedge.serve.") and not all(map(importlib.util.find_spec, ("starlette", "grpc")))
    if not name.endswith("__main__") and not served:
        importlib.import_module(name)
for name in glomedge.__all__:
    getattr(glomedge, name)
print(len(names))
"""
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def commands() -> list[str]:
    done = run("from glomedge.cli import app\nprint(*[command.name for command in app.registered_commands])")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_help_answers_without_loading_anything_heavy(commands: list[str]) -> None:
    """One process for all of them: each --help must print, and none may pull in a runtime."""
    done = run(
        """
from typer.testing import CliRunner
from glomedge.cli import app
for command in ([], *([name] for name in sys.argv[1:])):
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0, (command, result.output)
    assert "Usage" in result.output, (command, result.output)
heavy = {"onnxruntime", "openvino", "cv2", "numpy", "PIL", "glomedge_export"} & set(sys.modules)
assert not heavy, heavy
""",
        *commands,
    )
    assert done.returncode == 0, done.stderr
    assert {"doctor", "infer", "info", "warm"} <= set(commands)


def test_importing_the_engine_loads_no_runtime() -> None:
    done = run(
        "import glomedge.engine.engine\n"
        "print(*sorted({'onnxruntime', 'openvino', 'cv2', 'PIL', 'rich', 'typer'} & set(sys.modules)))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_importing_the_package_loads_nothing() -> None:
    done = run("import glomedge\nprint(*sorted({'numpy', 'pydantic', 'cv2', 'onnxruntime'} & set(sys.modules)))")
    assert done.stdout.split() == []


def test_a_command_starts_without_the_files_of_the_others() -> None:
    done = run(
        """
from glomedge.cli import main
sys.argv = ["glomedge", "doctor", "--help"]
try:
    main()
except SystemExit as end:
    assert end.code == 0
print(*sorted(name for name in sys.modules if name.startswith("glomedge.cli.")))
"""
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()[-1].split()
    assert "glomedge.cli.doctor" in loaded
    assert not {"glomedge.cli.infer", "glomedge.cli.train", "glomedge.cli.bench"} & set(loaded)


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant() -> None:
    done = subprocess.run([sys.executable, "-m", "glomedge", "infre"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "infer" in done.stderr
