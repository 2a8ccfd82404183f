"""What pip is told of glomedge, and what glomedge tells of pip."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from glomedge import about
from glomedge.errors import MissingExtraError
from helpers.paths import ROOT
from tools.lowest_versions import lower_bounds

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a glomedge that pip has installed, found before any other."""
    folder = tmp_path / "glomedge-9.9.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: glomedge\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    about._installed_from.cache_clear()
    yield folder
    about._installed_from.cache_clear()


@pytest.mark.parametrize(
    ("editable", "expected"), [(True, "pip install --editable '{}[gpu]'"), (False, "pip install '{}[gpu]'")]
)
def test_messages_name_the_checkout(installed: Path, editable: bool, expected: str) -> None:
    checkout = installed.parent / "a checkout"
    checkout.mkdir()
    record = {"url": checkout.as_uri(), "dir_info": {"editable": True} if editable else {}}
    (installed / "direct_url.json").write_text(json.dumps(record))
    assert about.install_command("glomedge[gpu]") == expected.format(checkout)


def test_messages_name_the_wheel_while_it_is_there(installed: Path) -> None:
    wheel = installed.parent / "glomedge-9.9-py3-none-any.whl"
    record = {"url": wheel.as_uri(), "archive_info": {}}
    (installed / "direct_url.json").write_text(json.dumps(record))
    assert about.install_command("glomedge[gpu]") == "pip install 'glomedge[gpu]'"
    wheel.write_bytes(b"")
    about._installed_from.cache_clear()
    assert about.install_command("glomedge[gpu]") == f"pip install '{wheel}[gpu]'"


@pytest.mark.parametrize("record", [None, "", "[]", "{}", '{"url": 3}', '{"url": "https://example.org/x.whl"}'])
def test_messages_name_the_package_where_no_source_is_known(installed: Path, record: str | None) -> None:
    if record is not None:
        (installed / "direct_url.json").write_text(record)
    assert about.install_command("glomedge[cpu,fast]") == "pip install 'glomedge[cpu,fast]'"


def test_records_name_the_checkout_as_a_dot(installed: Path) -> None:
    checkout = installed.parent / "a checkout"
    checkout.mkdir()
    (installed / "direct_url.json").write_text(json.dumps({"url": checkout.as_uri(), "dir_info": {"editable": True}}))
    assert about.without_source(about.install_command("glomedge[gpu]")) == "pip install --editable '.[gpu]'"


def test_other_packages_keep_their_names() -> None:
    assert about.install_command("onnxruntime") == "pip install onnxruntime"
    assert about.install_command("onnxruntime-gpu[cuda]") == "pip install 'onnxruntime-gpu[cuda]'"


def test_only_cpu_and_gpu_bring_an_onnxruntime() -> None:
    """Two of them in one environment overwrite each other's files."""
    brings = {extra for extra, needs in EXTRAS.items() for need in needs if need.startswith("onnxruntime>")}
    brings |= {extra for extra, needs in EXTRAS.items() for need in needs if need.startswith("onnxruntime-gpu")}
    assert brings == {"cpu", "gpu"}


def test_export_names_the_pythons_it_has_wheels_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tensorflow = next(need for need in EXTRAS["export"] if need.startswith("tensorflow"))
    assert "python_version < '3.14'" in tensorflow
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert "no wheel for Python 3.14" in str(MissingExtraError("Training", "keras", "export"))
    assert "no wheel" not in str(MissingExtraError("--format parquet", "pyarrow", "parquet"))


def test_every_dependency_has_a_lower_bound_to_test_with() -> None:
    bounds = dict(line.split("==") for line in lower_bounds(ROOT / "pyproject.toml", ["cpu", "fast", "parquet"]))
    # Before 0.19 typer refuses the Literal options of the commands.
    assert tuple(map(int, bounds["typer"].split("."))) >= (0, 19)
    assert {"numpy", "onnxruntime", "kornia-rs", "pyarrow"} <= set(bounds)


def test_a_dependency_without_a_lower_bound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["numpy"]\n')
    with pytest.raises(ValueError, match=r"numpy.*no lower bound"):
        lower_bounds(tmp_path / "pyproject.toml", [])


def test_the_pages_install_from_the_checkout_and_bring_an_onnxruntime_with_export() -> None:
    """glomedge is on no index, and ``export`` measures with an onnxruntime that it does not bring."""
    found = []
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text("utf-8")
        assert not re.search(r"pip install[^`\n]*glomedge\[", text), page
        found += [match.split(",") for match in re.findall(r"pip install[^`\n]*\'\.\[([\w,-]+)\]\'", text)]
    assert ["export", "cpu", "fast"] in found
    for extras in found:
        assert set(extras) <= set(EXTRAS), extras
        assert "export" not in extras or {"cpu", "gpu"} & set(extras), extras
        assert not {"cpu", "gpu"} <= set(extras), extras


def test_the_readme_says_which_python_the_workstation_needs() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if "pip install '.[export,cpu,fast]' " in line]
    assert "Python 3.11 to 3.13" in line
