"""Plugins of pydantic that another package brings (as Logfire does) see nothing of a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT

_PLUGIN = """
import os
with open(os.environ["PLUGIN_LOADED"], "a") as file:
    file.write("loaded")
class Plugin:
    def new_schema_validator(self, *arguments, **named):
        return None, None, None
plugin = Plugin()
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with a package that registers a plugin."""
    folder = tmp_path / "packages"
    about = folder / "spy-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "spy.py").write_text(_PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: spy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[pydantic]\nspy = spy:plugin\n")
    return folder


@pytest.mark.parametrize(
    ("own_setting", "loaded"), [({}, False), ({"PYDANTIC_DISABLE_PLUGINS": "other"}, True)], ids=["none", "his own"]
)
def test_a_command_loads_none_unless_its_user_says_so(
    installed: Path, tmp_path: Path, tiny_model: Path, own_setting: dict[str, str], loaded: bool
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYDANTIC_DISABLE_PLUGINS"}
    environment |= {"PLUGIN_LOADED": str(tmp_path / "loaded"), **own_setting}
    environment["PYTHONPATH"] = os.pathsep.join([str(installed), str(ROOT), str(ROOT / "export")])
    done = subprocess.run(
        [sys.executable, "-m", "glomedge", "info", str(tiny_model), "--json"],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "loaded").exists() == loaded
