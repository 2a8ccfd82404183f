"""The whole workflow in one command: draw crops, train, export, infer, evaluate, bench.

Every step is the command that a user would type, run as its own process in the demo folder, so what the demo shows
is what the commands do. Finished steps are noted in ``demo.json``: an interrupted demo continues where it stopped.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glomedge.about import RESEARCH_USE_NOTICE, __version__, install_command
from glomedge.cases.labels import read_labels
from glomedge.cases.metrics import auroc
from glomedge.errors import GlomedgeError, MissingExtraError, OutputError, UsageError
from glomedge.files.writing import check_writable, write_atomically
from glomedge.system.children import child_environment, python_command

RECORD_FILE = "demo.json"
MIN_AUROC = 0.9
_GRACE_SECONDS = 10.0
_NEEDED = {"tensorflow": "export", "tf2onnx": "export", "onnxruntime": "export,cpu"}
"""What must be importable, and the extras that bring it."""


@dataclass(frozen=True)
class Step:
    """One command of the demo.

    Attributes:
        arguments: what follows ``glomedge`` on the command line.
        makes: what it leaves in the demo folder; removed before the step runs, because an
            interrupted attempt may have left half of it.
        says: the line printed above the command.
        needs: packages without which it is left out; the extra ``slides`` brings them.
    """

    arguments: tuple[str, ...]
    makes: tuple[str, ...]
    says: str
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> bool:
        """Whether a package that it needs is not installed."""
        return any(importlib.util.find_spec(package) is None for package in self.needs)

    @property
    def command(self) -> str:
        """As typed."""
        return shlex.join(("glomedge", *self.arguments))


def _step(says: str, command: str, *makes: str, needs: tuple[str, ...] = ()) -> Step:
    return Step(tuple(shlex.split(command)), makes, says, needs)


_SLIDES = ("openslide", "shapely")


# Adam at a small rate: the last layer starts fitted to the random network's features, and larger steps of the layers
# below it (such as SGD at 0.001) undo that faster than two epochs can repair it.
STEPS = (
    _step("Draw crops to train on", "synth data --crops 240 --cases 12 --positive-fraction 0.4 --seed 1", "data"),
    _step("Draw tonight's biopsies, which training never sees", "synth night --crops 120 --cases 6 --seed 2", "night"),
    _step(
        "Train",
        "train data --weights none --epochs 2 --batch-size 8 --optimizer adam --learning-rate 0.000003"
        " --threshold youden",
        "artifacts",
    ),
    _step("Export to one ONNX file and prove it equal to Keras", "export", "artifacts/model.onnx"),
    _step("Call tonight's crops", "infer night", "predictions"),
    _step("Compare the calls with the labels", "evaluate night"),
    _step("Draw whole slides with their outlines", "synth-slide slides --glomeruli 24 --cases 2 --seed 3", "slides"),
    _step(
        "Call the outlined glomeruli, and write the calls back for QuPath",
        "infer slides --output on-slides --format geojson",
        "on-slides",
        needs=_SLIDES,
    ),
    _step("Measure", "bench --images night --duration 1 --batch-size 1,8", "bench"),
)


_PLACES = (
    ("predictions/predictions.csv", "one row a crop"),
    ("predictions/cases.csv", "one row a biopsy: percentage of globally sclerotic glomeruli, interval, grade"),
    ("predictions/report.html", "the same for reading, in a browser"),
    ("on-slides/annotations", "the calls on the slides of slides/, as GeoJSON: drag one onto its slide in QuPath"),
    ("on-slides/report.html", "the slides with their glomeruli marked by class"),
    ("artifacts/training-report.html", "training curves, test figures and how far to trust them"),
    ("artifacts/model.onnx", "the model, all that an edge device needs: glomedge info shows what is in it"),
    ("bench/bench.html", "latency and throughput on this machine"),
    (RECORD_FILE, "how long each command took"),
)


@dataclass(frozen=True)
class DemoResult:
    """How the demo went.

    Attributes:
        directory: the demo folder.
        auroc: of the drawn biopsies that training never saw.
        crops: how many they hold.
        seconds: wall-clock time of each command, as typed.
    """

    directory: Path
    auroc: float
    crops: int
    seconds: dict[str, float]

    @property
    def total_seconds(self) -> float:
        """Of all commands."""
        return sum(self.seconds.values())

    def places(self) -> list[tuple[Path, str]]:
        """The results worth looking at, of those that exist."""
        found = [(self.directory / path, what) for path, what in _PLACES if (self.directory / path).exists()]
        width = max((len(str(path)) for path, _ in found), default=0)
        return [(path, what.rjust(len(what) + width - len(str(path)))) for path, what in found]


Runner = Callable[[Sequence[str], Path], int]


def run_demo(
    directory: Path,
    *,
    fresh: bool = False,
    steps: Sequence[Step] = STEPS,
    say: Callable[[str], None] = print,
    runner: Runner | None = None,
) -> DemoResult:
    """Run the demo in ``directory`` and check that the model learned.

    Args:
        directory: new, empty, or of an earlier demo (which is then continued).
        fresh: remove what an earlier demo left in ``directory`` and start again.
        steps: the commands, in order.
        say: prints one line.
        runner: runs one command line (arguments after ``glomedge``) in a folder and returns its exit code.

    Raises:
        UsageError: ``directory`` holds something else.
        MissingExtraError: the workstation side is not installed.
        GlomedgeError: a command failed, or the model did not learn (AUROC below ``MIN_AUROC``).
    """
    for package, extra in _NEEDED.items():
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("The demo", package, extra)
    runner = runner or run_glomedge
    try:
        done = _prepare(directory, fresh)
        say(f"$ cd {shlex.quote(str(directory))}")
        for number, step in enumerate(steps, 1):
            say(f"\n[{number}/{len(steps)}] {step.says}\n$ {step.command}")
            if step.command in done:
                say(f"(done earlier, in {done[step.command]:.0f} s; start again with --fresh)")
                continue
            if step.missing:
                cure = install_command("glomedge[slides]")
                say(f"(left out: it needs {' and '.join(step.needs)}. Install with: {cure})")
                continue
            # What follows a repeated step was made from what it replaces.
            done = {command: seconds for command, seconds in done.items() if command in _before(steps, step)}
            _remove(directory, step.makes)
            started = time.perf_counter()
            code = runner(step.arguments, directory)
            if code:
                raise GlomedgeError(
                    f"The demo stopped: '{step.command}' ended with exit code {code}, see above. "
                    f"Fix that and run 'glomedge demo {shlex.quote(str(directory))}' again: it continues from here."
                )
            done[step.command] = round(time.perf_counter() - started, 2)
            _write_record(directory, done)
        area, crops = auroc_of(directory / "predictions" / "predictions.csv", directory / "night" / "public.csv")
        _write_record(directory, done, auroc=area, crops=crops)
    except OSError as error:
        raise OutputError(f"The demo cannot use {directory}: {error}. Choose a folder you can write to.") from error
    if not area >= MIN_AUROC:
        raise GlomedgeError(
            f"The demo ran, but its model did not learn: AUROC {area:.3f} on {crops} drawn crops it had not seen, "
            f"below {MIN_AUROC}. Run it again with --fresh; if it repeats, report it with {directory / RECORD_FILE}."
        )
    return DemoResult(directory, area, crops, done)


def run_glomedge(arguments: Sequence[str], directory: Path) -> int:
    """Run ``glomedge`` with this interpreter in ``directory``; its output goes to the same place as ours."""
    process = subprocess.Popen(python_command("glomedge", *arguments), cwd=directory, env=child_environment())
    try:
        return process.wait()
    except KeyboardInterrupt:
        # A terminal sends Ctrl-C to the command too: let it close its files. A lone signal reached only us.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def auroc_of(predictions: Path, labels: Path) -> tuple[float, int]:
    """AUROC of ``predictions.csv`` against ``public.csv``, and the number of crops compared.

    Raises:
        DatasetError: the labels cannot be read.
        GlomedgeError: a labelled crop has no probability, or a class is missing.
    """
    truth = read_labels(labels)
    with predictions.open(newline="", encoding="utf-8") as file:
        probability = {Path(row["path"]).name: row["probability"] for row in csv.DictReader(file)}
    missing = sorted(name for name in truth if not probability.get(name))
    if missing:
        raise GlomedgeError(
            f"{predictions} has no probability for {len(missing)} labelled crops, {missing[0]} among them. "
            "Run the demo again with --fresh."
        )
    scores = np.array([float(probability[name]) for name in truth])
    area = auroc(np.array(list(truth.values()), np.int64), scores)
    if area is None:
        raise GlomedgeError(f"{labels} has one class only. Run the demo again with --fresh.")
    return area, len(truth)


def _before(steps: Sequence[Step], step: Step) -> set[str]:
    commands = [other.command for other in steps]
    return set(commands[: commands.index(step.command)])


def _prepare(directory: Path, fresh: bool) -> dict[str, float]:
    """Check or make the demo folder; returns the commands that an earlier run finished, with their seconds."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file: name a folder for the demo.")
    check_writable(directory, "Choose a folder you can write to.")
    record = _read_record(directory)
    if record is None and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty and not a demo folder: name a new one, glomedge demo NEW_FOLDER.")
    if record is None or fresh or record.get("version") != __version__:
        # Only what the demo itself makes: notes that somebody added stay.
        _remove(directory, tuple(made for step in STEPS for made in step.makes))
        _write_record(directory, {})
        return {}
    return {str(command): float(seconds) for command, seconds in record["seconds"].items()}


def _read_record(directory: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((directory / RECORD_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    is_ours = isinstance(record, dict) and record.get("demo") == "glomedge" and isinstance(record.get("seconds"), dict)
    return record if is_ours else None


def _write_record(directory: Path, seconds: dict[str, float], **figures: float) -> None:
    record = {
        "notice": f"Drawn crops, no patient's tissue. {RESEARCH_USE_NOTICE}",
        "demo": "glomedge",
        "version": __version__,
        "seconds": seconds,
        **figures,
    }
    write_atomically(directory / RECORD_FILE, (json.dumps(record, indent=1) + "\n").encode())


def _remove(directory: Path, makes: Sequence[str]) -> None:
    for made in makes:
        path = directory / made
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
