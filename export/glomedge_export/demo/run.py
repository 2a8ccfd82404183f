"""Runs the demo's steps, each as its own process in the demo folder, so that what it shows is what the commands do.

Finished steps are noted in ``demo.json``: an interrupted demo continues where it stopped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glomedge.about import RESEARCH_USE_NOTICE, __version__, install_command
from glomedge.errors import GlomedgeError, MissingExtraError, OutputError, UsageError
from glomedge.files.writing import check_writable, write_atomically
from glomedge.system.children import child_environment, python_command
from glomedge_export.demo.figures import Figures, figures_of
from glomedge_export.demo.page import PAGE_FILE, write_page
from glomedge_export.demo.steps import STEPS, Spent, Step

RECORD_FILE = "demo.json"
MIN_AUROC = 0.9
"""Below this the model has not learnt; a demo that went well is far above."""
_GRACE_SECONDS = 10.0
_NEEDED = {"tensorflow": "export", "tf2onnx": "export", "onnxruntime": "export,cpu"}
"""What must be importable, and the extras that bring it."""

_PLACES = (
    (PAGE_FILE, "all of it on one page: begin here"),
    ("predictions/report.html", "tonight's biopsies: percentage, interval, crops to review"),
    ("predictions/cases.csv", "the same as a table, one row a biopsy"),
    ("on-slides/annotations", "the calls on the slides of slides/, as GeoJSON: drag one onto its slide in QuPath"),
    ("labelling/label.html", "the page on which a reader labels 30 crops"),
    ("validation.html", "the other laboratory after that, for the records"),
    ("artifacts/training-report.html", "training curves, test figures and how far to trust them"),
    ("artifacts/model.onnx", "the model, all that an edge device needs: glomedge info shows what is in it"),
)


@dataclass(frozen=True)
class DemoResult:
    """How the demo went.

    Attributes:
        directory: the demo folder.
        night: the biopsies that training never saw.
        before, after: those of the other laboratory, called by the model as it is and by the recalibrated one.
        spent: what each command took, as typed.
    """

    directory: Path
    night: Figures
    before: Figures
    after: Figures
    spent: dict[str, Spent]

    @property
    def total_seconds(self) -> float:
        """Of all commands."""
        return sum(spent.seconds for spent in self.spent.values())

    def sentences(self) -> tuple[str, str]:
        """What came out, at home and at the other laboratory."""
        night, before, after = self.night, self.before, self.after
        return (
            f"On {night.crops} drawn crops of {len(night.biopsies)} biopsies that training never saw: AUROC "
            f"{night.auroc:.3f}, sensitivity {night.sensitivity:.3f}, specificity {night.specificity:.3f}; "
            f"{night.review} crops ({100 * night.review_share:.0f}%) to review; the true percentage in the interval of "
            f"{night.held} of {len(night.biopsies)} biopsies.",
            f"At another laboratory, before and after 30 labels: sensitivity {before.sensitivity:.3f} -> "
            f"{after.sensitivity:.3f}, specificity {before.specificity:.3f} -> {after.specificity:.3f}, %GS off by "
            f"{before.percent_error:.1f} -> {after.percent_error:.1f} points a biopsy.",
        )


def places(directory: Path) -> list[tuple[Path, str]]:
    """The results worth looking at, of those that exist in a demo folder; the words stand below one another."""
    found = [(directory / path, what) for path, what in _PLACES if (directory / path).exists()]
    width = max((len(str(path)) for path, _ in found), default=0)
    return [(path, what.rjust(len(what) + width - len(str(path)))) for path, what in found]


Runner = Callable[[Sequence[str], Path], int]
Say = Callable[[str], None]


def run_demo(
    directory: Path,
    *,
    fresh: bool = False,
    steps: Sequence[Step] = STEPS,
    say: Say = print,
    runner: Runner | None = None,
) -> DemoResult:
    """Run the demo in ``directory``, write its page and check that the model learned.

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
    try:
        done = _prepare(directory, fresh)
        say(f"$ cd {shlex.quote(str(directory))}")
        done = _run_steps(directory, steps, done, say, runner or run_glomedge)
        night = figures_of(directory / "predictions", directory / "night" / "public.csv")
        before, after = (
            figures_of(directory / answers, directory / "away-check" / "public.csv") for answers in ("before", "after")
        )
        result = DemoResult(directory, night, before, after, done)
        _write_record(directory, done, night=night.as_json(), before=before.as_json(), after=after.as_json())
        write_page(directory, night, before, after, [(s, done.get(s.command)) for s in steps])
    except OSError as error:
        raise OutputError(f"The demo cannot use {directory}: {error}. Choose a folder you can write to.") from error
    if not night.auroc >= MIN_AUROC:
        raise GlomedgeError(
            f"The demo ran, but its model did not learn: AUROC {night.auroc:.3f} on {night.crops} drawn crops it had "
            f"not seen, below {MIN_AUROC}. Run it again with --fresh; if it repeats, report it with "
            f"{directory / RECORD_FILE}."
        )
    return result


def _run_steps(
    directory: Path, steps: Sequence[Step], done: dict[str, Spent], say: Say, runner: Runner
) -> dict[str, Spent]:
    """Run those not yet done; returns what each took."""
    for number, step in enumerate(steps, 1):
        shown = f"({step.command})" if step.action and not step.command.startswith("glomedge ") else f"$ {step.command}"
        say(f"\n[{number}/{len(steps)}] {step.says}\n{shown}")
        if step.command in done:
            say(f"(done earlier, in {done[step.command].seconds:.0f} s; start again with --fresh)")
            continue
        if step.missing:
            cure = install_command(f"glomedge[{step.extra}]")
            say(f"(left out: it needs {' and '.join(step.needs)}. Install with: {cure})")
            continue
        # What follows a repeated step was made from what it replaces.
        done = {command: spent for command, spent in done.items() if command in _before(steps, step)}
        _remove(directory, step.makes)
        started, processor = time.perf_counter(), _processor_seconds()
        if step.action is not None:
            step.action(directory, say)
        elif code := runner(step.arguments, directory):
            raise GlomedgeError(
                f"The demo stopped: '{step.command}' ended with exit code {code}, see above. "
                f"Fix that and run 'glomedge demo {shlex.quote(str(directory))}' again: it continues from here."
            )
        done[step.command] = Spent(round(time.perf_counter() - started, 2), round(_processor_seconds() - processor, 2))
        _write_record(directory, done)
    return done


def _processor_seconds() -> float:
    """Of this process and of those that it has waited for (on Windows of this process alone)."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


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


def _before(steps: Sequence[Step], step: Step) -> set[str]:
    commands = [other.command for other in steps]
    return set(commands[: commands.index(step.command)])


def _prepare(directory: Path, fresh: bool) -> dict[str, Spent]:
    """Check or make the demo folder; returns the commands that an earlier run finished, with what they took."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file: name a folder for the demo.")
    check_writable(directory, "Choose a folder you can write to.")
    record = _read_record(directory)
    if record is None and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty and not a demo folder: name a new one, glomedge demo NEW_FOLDER.")
    if record is None or fresh or record.get("version") != __version__:
        # Only what the demo itself makes: notes that somebody added stay.
        _remove(directory, (PAGE_FILE, *(made for step in STEPS for made in step.makes)))
        _write_record(directory, {})
        return {}
    processor = record.get("processor_seconds", {})
    return {
        str(command): Spent(float(seconds), float(processor.get(command, 0.0)))
        for command, seconds in record["seconds"].items()
    }


def _read_record(directory: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((directory / RECORD_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    is_ours = isinstance(record, dict) and record.get("demo") == "glomedge" and isinstance(record.get("seconds"), dict)
    return record if is_ours else None


def _write_record(directory: Path, done: dict[str, Spent], **figures: dict[str, Any]) -> None:
    record = {
        "notice": f"Drawn crops, no patient's tissue. {RESEARCH_USE_NOTICE}",
        "demo": "glomedge",
        "version": __version__,
        "seconds": {command: spent.seconds for command, spent in done.items()},
        "processor_seconds": {command: spent.processor_seconds for command, spent in done.items()},
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
