"""Compare the built sdist and wheel with the checkout, or try the wheel: ``check_dist.py dist [--try VERSIONS]``.

The sdist must hold every file that git tracks, so that ``make lint test`` runs in it, and nothing else. The wheel must
hold every tracked file of the packages, templates, scripts and py.typed among them, and nothing else. With
``--try`` the wheel goes into a new environment with the extra `cpu` alone and the versions of that file of constraints;
there the edge's commands must answer without TensorFlow.

Needs git and Python's own library; ``--try`` needs a package index.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTICE = "Research use only"
# What setuptools adds to every sdist.
_SDIST_METADATA = re.compile(r"PKG-INFO|setup\.cfg|glomedge\.egg-info/[\w-]+(?:\.txt)?")
_WHEEL_METADATA = re.compile(r"glomedge-[^/]+\.dist-info/.+")
# Where the packages lie in the checkout, and where in the wheel.
_PACKAGES = {"glomedge/": "glomedge/", "export/glomedge_export/": "glomedge_export/"}
# The workstation's packages, which an edge device must not be given.
_LIMIT_S = 900.0
"""For each command in the new environment; the longest is the installation."""
_WORKSTATION = {"tensorflow", "keras", "tf_keras", "tf-keras", "tf2onnx", "onnx", "scikit-learn", "matplotlib"}


class DistError(Exception):
    """What was built cannot be examined; the message says why and what to do."""


def tracked_files(root: Path) -> list[str]:
    """The paths that git tracks, relative to the checkout.

    Raises:
        DistError: the folder is no checkout of git.
    """
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        raise DistError(f"{root} is no git checkout, so nothing says which files belong to it. Build in a clone.")
    return [name for name in listed.stdout.split("\0") if name]


def sdist_problems(names: Iterable[str], tracked: Iterable[str]) -> list[str]:
    """What is wrong with an sdist of these files (paths below its one folder), a sentence a file."""
    found, wanted = set(names), set(tracked)
    problems = [f"sdist: {name} is tracked but missing; add it to MANIFEST.in" for name in sorted(wanted - found)]
    strangers = sorted(name for name in found - wanted if not _SDIST_METADATA.fullmatch(name))
    return problems + [f"sdist: {name} is not tracked by git; remove or commit it" for name in strangers]


def wheel_problems(names: Iterable[str], tracked: Iterable[str]) -> list[str]:
    """What is wrong with a wheel of these files, a sentence a file."""
    wanted = {
        inside + name.removeprefix(outside)
        for name in tracked
        for outside, inside in _PACKAGES.items()
        if name.startswith(outside)
    }
    found = {name for name in names if not name.endswith("/")}
    metadata = {name for name in found if _WHEEL_METADATA.fullmatch(name)}
    problems = [f"wheel: {name} is missing; see package-data in pyproject.toml" for name in sorted(wanted - found)]
    problems += [f"wheel: {name} does not belong there" for name in sorted(found - wanted - metadata)]
    for ending in ("METADATA", "entry_points.txt", "licenses/LICENSE"):
        if not any(name.endswith(f".dist-info/{ending}") for name in metadata):
            problems.append(f"wheel: its {ending} is missing")
    return problems


def built(folder: Path, version: str) -> tuple[Path, Path]:
    """The sdist and the wheel of this version.

    Raises:
        DistError: the folder does not hold exactly one of each, or they have another version.
    """
    sdist, wheel = folder / f"glomedge-{version}.tar.gz", folder / f"glomedge-{version}-py3-none-any.whl"
    there = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
    if there != sorted([sdist.name, wheel.name]):
        raise DistError(
            f"{folder} must hold {sdist.name} and {wheel.name} alone, not: {', '.join(there) or 'nothing'}."
        )
    return sdist, wheel


def sdist_names(sdist: Path) -> list[str]:
    """The files of an sdist, below its one folder."""
    with tarfile.open(sdist) as archive:
        return [member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()]


def wheel_names(wheel: Path) -> list[str]:
    """The files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def edge_problems(outputs: dict[str, str], installed: Iterable[str], version: str, prefix: Path) -> list[str]:
    """What is wrong on an edge device that gave these outputs (command to standard output) and has these packages."""
    heavy = sorted({name.lower() for name in installed} & _WORKSTATION)
    problems = [f"edge: {name} came with the extra cpu" for name in heavy]
    if not outputs["--version"].startswith(f"glomedge {version}. "):
        problems.append(f"edge: --version says {outputs['--version'].strip()!r}, not {version}")
    try:
        doctor = json.loads(outputs["doctor --json"])
        usable = {provider["name"] for provider in doctor["providers"] if provider["usable"]}
    except (ValueError, KeyError, TypeError):
        problems.append("edge: doctor --json prints no report")
    else:
        if "cpu" not in usable:
            problems.append("edge: doctor says that the CPU cannot be used")
        if "tensorflow" in doctor.get("packages", {}):
            problems.append("edge: doctor finds TensorFlow")
    silent = [command for command in ("--version", "doctor --json") if NOTICE not in outputs[command]]
    problems += [f"edge: {command} does not say {NOTICE!r}" for command in silent]
    if "--resume" not in outputs["infer --help"]:
        problems.append("edge: infer --help does not list its options")
    if not Path(outputs["where"].strip()).is_relative_to(prefix):
        problems.append(f"edge: glomedge was imported from {outputs['where'].strip()}, not from the wheel")
    return problems


def try_wheel(wheel: Path, version: str, constraints: Path) -> list[str]:
    """Install the wheel with the extra `cpu` into a new environment, run the edge's commands, and say what is wrong.

    Args:
        wheel, version: what was built.
        constraints: file of the versions to install.

    Raises:
        DistError: pip cannot install it, or a command fails or takes longer than a quarter of an hour.
    """
    with tempfile.TemporaryDirectory(prefix="glomedge-edge-") as temporary:
        folder = Path(temporary).resolve()
        venv.create(folder / "venv", with_pip=True)
        programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        # A home of its own: nothing of the developer's caches or settings helps.
        clean |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}

        def run(*command: str) -> str:
            try:
                done = subprocess.run(
                    command, cwd=folder, env=clean, capture_output=True, text=True, check=False, timeout=_LIMIT_S
                )
            except subprocess.TimeoutExpired:
                raise DistError(f"{' '.join(command)} has not ended after {_LIMIT_S / 60:.0f} minutes.") from None
            if done.returncode != 0:
                raise DistError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-400:].strip()}")
            return done.stdout

        python = str(programs / "python")
        pip = (python, "-m", "pip", "--disable-pip-version-check")
        run(*pip, "install", "--quiet", "--constraint", str(constraints.resolve()), f"{wheel.resolve()}[cpu]")
        run(*pip, "check")
        installed = [package["name"] for package in json.loads(run(*pip, "list", "--format", "json"))]
        program = str(programs / "glomedge")
        outputs = {
            command: run(program, *command.split()) for command in ("--version", "doctor --json", "infer --help")
        }
        outputs["where"] = run(python, "-c", "import glomedge; print(glomedge.__file__)")
        return edge_problems(outputs, installed, version, folder / "venv")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the sdist and the wheel lie, and nothing else")
    parser.add_argument("--try", dest="constraints", type=Path, help="try the wheel with these versions instead")
    options = parser.parse_args()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    try:
        sdist, wheel = built(options.folder, version)
        if options.constraints is None:
            tracked = tracked_files(ROOT)
            problems = sdist_problems(sdist_names(sdist), tracked) + wheel_problems(wheel_names(wheel), tracked)
        else:
            problems = try_wheel(wheel, version, options.constraints)
    except DistError as error:
        problems = [str(error)]
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    if options.constraints is None:
        print(f"{sdist.name} and {wheel.name} hold what they must.")
    else:
        print(f"{wheel.name} runs without TensorFlow, with the versions of {options.constraints}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
