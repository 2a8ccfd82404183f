"""Which pins of constraints.txt have a wheel for Linux on arm64: ``python tests/tools/arm64_wheels.py``.

pip is asked for each pin as ``pip install --dry-run``: nothing is installed, no wheel is run. Needs a package index and
the environment of ``make test``: which extra needs which pin is read from the packages installed there.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
# Minor versions of glibc: 2.28 is that of Debian 10 and RHEL 8, 2.39 that of Ubuntu 24.04 and JetPack 7.
OLD_GLIBC, NEW_GLIBC = 28, 39
PROBE = "six"  # pure Python, one wheel for every machine: if this one is not found, no index was reached
_NOT_FOUND = "No matching distribution found"


class NoIndexError(Exception):
    """pip reached no package index, so nothing can be said of any wheel."""


def environment(python: str) -> dict[str, str]:
    """What a marker sees on Linux, arm64, with this Python (``major.minor``)."""
    return {
        "os_name": "posix", "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64",
        "implementation_name": "cpython", "platform_python_implementation": "CPython",
        "python_version": python, "python_full_version": f"{python}.0", "extra": "",
    }  # fmt: skip


def pins(constraints: str, python: str) -> list[str]:
    """``name==version`` of each line whose marker holds on arm64 with this Python, in the file's order."""
    found = []
    for line in constraints.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            found.append(f"{requirement.name}{requirement.specifier}")
    return found


def has_wheel(pin: str, python: str, glibc_minor: int = OLD_GLIBC) -> bool:
    """Whether pip finds a wheel of this pin for arm64, this Python and glibc 2.``glibc_minor``.

    Raises:
        NoIndexError: pip failed for another reason than a missing wheel.
    """
    platforms = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, glibc_minor + 1))]
    with tempfile.TemporaryDirectory() as folder:
        asked = subprocess.run(
            [
                sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--only-binary", ":all:",
                "--ignore-installed", "--disable-pip-version-check", "--python-version", python, "--target", folder,
                *(part for platform in platforms for part in ("--platform", platform)), pin,
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if asked.returncode == 0:
        return True
    if _NOT_FOUND in asked.stderr:
        return False
    raise NoIndexError(f"pip could not be asked for {pin}: {asked.stderr[-300:].strip()}")


def without_wheel(
    wanted: Iterable[str], python: str, glibc_minor: int, ask: Callable[[str, str, int], bool] = has_wheel
) -> list[str]:
    """The pins that have no wheel for arm64, in the order given.

    Raises:
        NoIndexError: not even a package of pure Python is found.
    """
    if not ask(PROBE, python, glibc_minor):
        raise NoIndexError(f"pip finds no wheel of {PROBE}, which has one for every machine: no package index here")
    wanted = list(wanted)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pin: ask(pin, python, glibc_minor), wanted))
    return [pin for pin, there in zip(wanted, found, strict=True) if not there]


def needs(requirements: Iterable[str], python: str) -> tuple[set[str], set[str]]:
    """All that these requirements bring on arm64: names that are installed here, and names that are not.

    The second set's own needs are unknown, so nothing can be said of an extra that has one.
    """
    known: set[str] = set()
    unknown: set[str] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        marker = requirement.marker
        if marker is not None and not marker.evaluate(environment(python) | {"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for asked in ("", *requirement.extras):
            if (name, asked) in seen:
                continue
            seen.add((name, asked))
            try:
                below = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                unknown.add(name)
                continue
            known.add(name)
            waiting += [(Requirement(text), asked) for text in below]
    return known, unknown


def extras_table(missing: Iterable[str], pyproject: Path, python: str) -> dict[str, str]:
    """For the base and each extra: ``yes``, ``no: ...`` with the pins that have no wheel, or ``not examined: ...``."""
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    wanted = {"(base)": project["dependencies"], **project["optional-dependencies"]}
    lost = {canonicalize_name(re.split("[=<>]", pin)[0]) for pin in missing}
    table = {}
    for extra, requirements in wanted.items():
        known, unknown = needs(requirements, python)
        if lost & (known | unknown):
            table[extra] = "no: " + ", ".join(sorted(lost & (known | unknown)))
        elif unknown:
            table[extra] = "not examined, because not installed here: " + ", ".join(sorted(unknown))
        else:
            table[extra] = "yes" if known else "nothing to install"
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default="3.12", help="major.minor of the Python on the arm64 machine")
    python = parser.parse_args().python
    wanted = pins((ROOT / "constraints.txt").read_text("utf-8"), python)
    try:
        missing = without_wheel(wanted, python, OLD_GLIBC)
        never = without_wheel(missing, python, NEW_GLIBC)
    except NoIndexError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Python {python}, Linux arm64: {len(wanted)} pins, {len(missing)} without a wheel for glibc 2.{OLD_GLIBC}")
    for pin in missing:
        print(f"  {pin}" + ("" if pin in never else f" (has one for glibc 2.{NEW_GLIBC})"))
    old = extras_table(missing, ROOT / "pyproject.toml", python)
    new = extras_table(never, ROOT / "pyproject.toml", python)
    for extra, verdict in old.items():
        then = "" if new[extra] == verdict else f"; glibc 2.{NEW_GLIBC}: {new[extra]}"
        print(f"{extra:<22} {verdict}{then}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
