"""Constraints that pin each dependency to its lower bound: ``python lowest_versions.py [EXTRA ...] > lowest.txt``.

Read from pyproject.toml, so that a bound that nobody has tried cannot stand there: ``make test-lowest`` installs them.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

_REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9][^,; ]*)")


def lower_bounds(pyproject: Path, extras: list[str]) -> list[str]:
    """``name==version`` of the base dependencies and those of the extras.

    Raises:
        ValueError: a dependency has no lower bound.
    """
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    needs = [*project["dependencies"]]
    for extra in extras:
        needs += project["optional-dependencies"][extra]
    lines = []
    for need in needs:
        found = _REQUIREMENT.match(need)
        if found is None:
            raise ValueError(f"{need!r} in {pyproject} has no lower bound (name>=version)")
        lines.append(f"{found[1]}=={found[2]}")
    return lines


if __name__ == "__main__":
    print("\n".join(lower_bounds(Path(__file__).resolve().parents[2] / "pyproject.toml", sys.argv[1:])))
