"""What ``make dist`` builds, and the files that a release must carry."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from helpers.paths import ROOT
from tools import arm64_wheels, check_dist
from tools.arm64_wheels import NoIndexError

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
VERSION = PROJECT["version"]
TRACKED = ["README.md", "glomedge/cli/__init__.py", "glomedge/serve/open_inference.proto", "glomedge/py.typed",
           "export/glomedge_export/py.typed", "tests/test_errors.py"]  # fmt: skip
METADATA = [f"glomedge-{VERSION}.dist-info/{name}" for name in ("METADATA", "entry_points.txt", "licenses/LICENSE")]
SDIST = [*TRACKED, "PKG-INFO", "setup.cfg", "glomedge.egg-info/SOURCES.txt"]
WHEEL = ["glomedge/cli/__init__.py", "glomedge/serve/open_inference.proto", "glomedge/py.typed",
         "glomedge_export/py.typed", *METADATA]  # fmt: skip


def test_a_whole_distribution_has_no_problem() -> None:
    assert check_dist.sdist_problems(SDIST, TRACKED) == []
    assert check_dist.wheel_problems(WHEEL, TRACKED) == []


@pytest.mark.parametrize("name", TRACKED)
def test_a_tracked_file_that_the_sdist_lacks_is_named(name: str) -> None:
    (problem,) = check_dist.sdist_problems([other for other in SDIST if other != name], TRACKED)
    assert f"{name} is tracked but missing" in problem


def test_a_file_that_git_does_not_track_is_named() -> None:
    (problem,) = check_dist.sdist_problems([*SDIST, "tests/patient.png"], TRACKED)
    assert "tests/patient.png is not tracked" in problem


@pytest.mark.parametrize("name", WHEEL)
def test_a_file_that_the_wheel_lacks_is_named(name: str) -> None:
    (problem,) = check_dist.wheel_problems([other for other in WHEEL if other != name], TRACKED)
    assert name.split(".dist-info/")[-1] in problem
    assert "is missing" in problem


@pytest.mark.parametrize("name", ["tests/test_errors.py", "glomedge/old.py", "benchmarks/gpu.py"])
def test_a_file_that_does_not_belong_in_the_wheel_is_named(name: str) -> None:
    assert check_dist.wheel_problems([*WHEEL, name], TRACKED) == [f"wheel: {name} does not belong there"]


def test_the_names_are_read_from_the_archives(tmp_path: Path) -> None:
    sdist, wheel = tmp_path / f"glomedge-{VERSION}.tar.gz", tmp_path / f"glomedge-{VERSION}-py3-none-any.whl"
    with tarfile.open(sdist, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(f"glomedge-{VERSION}/tests/a.py"), io.BytesIO())
    with zipfile.ZipFile(wheel, "w") as archive_of_wheel:
        archive_of_wheel.writestr("glomedge/a.py", "")
    assert check_dist.built(tmp_path, VERSION) == (sdist, wheel)
    assert check_dist.sdist_names(sdist) == ["tests/a.py"]
    assert check_dist.wheel_names(wheel) == ["glomedge/a.py"]
    (tmp_path / "glomedge-0.0.1.tar.gz").touch()
    with pytest.raises(check_dist.DistError, match=r"glomedge-0\.0\.1"):
        check_dist.built(tmp_path, VERSION)


def test_a_folder_without_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(check_dist.DistError, match="no git checkout"):
        check_dist.tracked_files(tmp_path)


def _edge(**changed: str) -> dict[str, str]:
    doctor = {
        "notice": "Research use only.",
        "providers": [{"name": "cpu", "usable": True}],
        "packages": {"numpy": "2"},
    }
    return {
        "--version": f"glomedge {VERSION}. Research use only.\n", "doctor --json": json.dumps(doctor),
        "infer --help": "--resume", "where": "/edge/lib/glomedge/__init__.py\n",
    } | changed  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "installed", "problem"),
    [
        ({}, ["numpy", "onnxruntime"], None),
        ({}, ["numpy", "TensorFlow"], "tensorflow came with"),
        ({"--version": "glomedge 9. Research use only."}, [], "--version says"),
        ({"--version": f"glomedge {VERSION}. Try it."}, [], "does not say"),
        ({"doctor --json": "Research use only"}, [], "prints no report"),
        ({"doctor --json": '{"notice": "Research use only", "providers": []}'}, [], "CPU cannot be used"),
        ({"infer --help": ""}, [], "does not list its options"),
        ({"where": "/checkout/glomedge/__init__.py"}, [], "not from the wheel"),
    ],
)
def test_what_an_edge_device_gets_wrong_is_named(
    changed: dict[str, str], installed: list[str], problem: str | None
) -> None:
    problems = check_dist.edge_problems(_edge(**changed), installed, VERSION, Path("/edge"))
    assert (problems == []) if problem is None else (len(problems) == 1 and problem in problems[0]), problems


def test_the_tools_of_make_dist_are_pinned() -> None:
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()}
    assert {"build", "twine"} <= pinned
    assert [need.split(">=")[0] for need in PROJECT["optional-dependencies"]["dist"]] == ["build", "twine"]


def test_the_citation_has_the_version_and_the_licence_of_the_package() -> None:
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    fields = dict(re.findall(r"^([\w-]+): (.+)$", text, re.MULTILINE))
    assert fields["cff-version"] == "1.2.0"
    assert (fields["version"], fields["license"]) == (VERSION, PROJECT["license"])
    assert "Research use only" in text
    for source in re.findall(r"\b(?:105314|110719)\b", (ROOT / "README.md").read_text("utf-8")):
        assert source in text


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_the_links_of_the_pages_at_the_root_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert "Research use only" in text
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
    assert f"(../{page})" in (ROOT / "docs" / "README.md").read_text("utf-8")


def test_pins_are_those_of_the_python_on_the_arm64_machine() -> None:
    constraints = 'a==1\nb==2; python_version < "3.12"\nb==3; python_version >= "3.12"\nc==4; sys_platform == "win32"\n'
    constraints += 'd==5; platform_machine == "aarch64"\n\n'
    assert arm64_wheels.pins(constraints, "3.12") == ["a==1", "b==3", "d==5"]
    assert arm64_wheels.pins(constraints, "3.11") == ["a==1", "b==2", "d==5"]


def test_pins_without_a_wheel_are_named_only_where_an_index_answers() -> None:
    there = {arm64_wheels.PROBE, "a==1"}
    assert arm64_wheels.without_wheel(["b==2", "a==1"], "3.12", 28, lambda pin, _python, _glibc: pin in there) == [
        "b==2"
    ]
    with pytest.raises(NoIndexError, match="no package index"):
        arm64_wheels.without_wheel(["a==1"], "3.12", 28, lambda _pin, _python, _glibc: False)


def test_an_extra_is_followed_down_to_what_its_packages_need() -> None:
    known, unknown = arm64_wheels.needs(["pydantic>=2", "no-such-package-anywhere; sys_platform == 'linux'"], "3.12")
    assert {"pydantic", "pydantic-core"} <= known
    assert unknown == {"no-such-package-anywhere"}
    assert arm64_wheels.needs(["numpy; platform_machine == 'x86_64'"], "3.12") == (set(), set())


def test_an_extra_is_as_good_as_its_weakest_pin() -> None:
    table = arm64_wheels.extras_table(["pydantic_core==1"], ROOT / "pyproject.toml", "3.12")
    assert table["(base)"] == "no: pydantic-core"
    assert table["tensorrt"] == "nothing to install"
    assert table["cpu"] == "yes"


@pytest.mark.slow
def test_make_dist_builds_checks_and_tries_what_this_checkout_holds(tmp_path: Path) -> None:
    """Needs git, make and a package index."""
    if shutil.which("git") is None or shutil.which("make") is None:
        pytest.skip("needs git and make")
    if not _index_answers():
        pytest.skip("no package index is reached from here")
    for name in check_dist.tracked_files(ROOT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "--all"], cwd=tmp_path, check=True)
    made = subprocess.run(
        ["make", "dist", f"PYTHON={sys.executable}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-2000:]
    assert "hold what they must" in made.stdout
    assert "runs without TensorFlow, with the versions of constraints.txt" in made.stdout
    assert {path.suffix for path in (tmp_path / "dist").iterdir()} == {".gz", ".whl"}
    (tmp_path / "tests" / "stranger.py").touch()
    (tmp_path / "MANIFEST.in").write_text("graft tests\n")
    remade = subprocess.run(["make", "dist"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert remade.returncode != 0
    assert "tests/stranger.py is not tracked by git" in remade.stderr
    assert "Makefile is tracked but missing" in remade.stderr


@pytest.mark.slow
def test_every_pin_of_the_edge_has_a_wheel_for_arm64() -> None:
    """Needs a package index: asks for each pin, about four minutes."""
    python = "3.12"
    wanted = arm64_wheels.pins((ROOT / "constraints.txt").read_text("utf-8"), python)
    if not _index_answers():
        pytest.skip("no package index is reached from here")
    missing = arm64_wheels.without_wheel(wanted, python, arm64_wheels.OLD_GLIBC)
    table = arm64_wheels.extras_table(missing, ROOT / "pyproject.toml", python)
    assert [table[extra] for extra in ("(base)", "cpu", "fast")] == ["yes", "yes", "yes"], missing


def _index_answers() -> bool:
    try:
        return arm64_wheels.has_wheel(arm64_wheels.PROBE, "3.12")
    except NoIndexError:
        return False
