"""What the pages take for granted when a test runs their commands (``helpers.doc_sandbox``).

given model FILE                        a model of three weights, which runs in a millisecond
given labels CHOSEN DATA FILE           what a reader would answer to CHOSEN, from DATA/public.csv
given names DATA STUDY                  drawn crops get the names of a study: STUDY_1_0-1.png of its first biopsy
make TARGET ...                         the targets exist; nothing is made
pip install PATH[EXTRA,...] ...         pyproject.toml has the extras, and the files exist; nothing is installed
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def _model(file: str) -> None:
    sys.path[:0] = [str(_ROOT / "tests"), str(_ROOT / "export")]
    from helpers.builders import build_tiny_model

    Path(file).parent.mkdir(parents=True, exist_ok=True)
    build_tiny_model(Path(file))


def _labels(chosen: str, data: str, file: str) -> None:
    with (Path(data) / "public.csv").open(encoding="utf-8", newline="") as handle:
        truth = {Path(row["name"]).stem: row["ground truth"] for row in csv.DictReader(handle)}
    with Path(chosen).open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    with Path(file).open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["name", "ground truth", "weight", "reader"])
        writer.writerows([row["name"], truth[Path(row["name"]).stem], row["weight"], Path(file).stem] for row in rows)


def _study(model: str, data: str, study: str) -> None:
    import glomedge
    from glomedge.cases import case_of

    crops = sorted(Path(data).glob("*/*.png"))
    biopsies: dict[str, int] = {}
    rows = []
    with glomedge.load(model, provider="cpu") as engine:
        for number, (crop, found) in enumerate(zip(crops, engine.predict(crops), strict=True), start=1):
            biopsy = biopsies.setdefault(case_of(crop.name).case, len(biopsies) + 1)
            name = f"{study}_{biopsy}_0-{number}.png"
            rows.append([name, int(((found.probability or 0.0) >= engine.spec.threshold) != (number % 5 == 0))])
            crop.rename(Path(data) / name)
    with (Path(data) / "public.csv").open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([["name", "ground truth"], *rows])


def _make(*targets: str) -> None:
    subprocess.run(["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "make", "--silent", "--dry-run", "-C", str(_ROOT),
                    *targets], stdout=subprocess.DEVNULL, check=True)  # fmt: skip


def _pip(*arguments: str) -> None:
    extras = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for argument in arguments:
        if (found := re.fullmatch(r"(?:\.|glomedge)\[([\w,-]+)\]", argument)) is not None:
            unknown = set(found[1].split(",")) - set(extras)
            if unknown:
                sys.exit(f"pyproject.toml has no extra {', '.join(sorted(unknown))}")
        elif argument.endswith(".txt") and not (_ROOT / argument).is_file():
            sys.exit(f"{argument} is not in the checkout")


_COMMANDS: dict[str, Callable[..., None]] = {"model": _model, "labels": _labels, "study": _study}

if __name__ == "__main__":
    _, program, *rest = sys.argv
    if program == "given":
        _COMMANDS[rest[0]](*rest[1:])
    else:
        {"make": _make, "pip": _pip}[program](*rest)
