"""Steps that cannot harm each other: each runs in a process of its own, and its failure is a result.

A GPU that one step has left in a state of error, a crash inside a library, a step that hangs: the next step begins in
a fresh process. The parent must touch neither onnxruntime nor CUDA, which do not survive a fork.
"""

from __future__ import annotations

import json
import multiprocessing
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any


class Disagreement(Exception):  # noqa: N818 - a finding, not an error of the program
    """What a step found is not what it must be; ``found`` goes into the record all the same."""

    def __init__(self, message: str, found: dict[str, Any]) -> None:
        super().__init__(message)
        self.found = found


@dataclass(frozen=True)
class Step:
    """One thing to try.

    Attributes:
        name: of the row in the table.
        run: does it in the child; returns what it found (JSON), or raises.
        limit_s: after this it is ended.
    """

    name: str
    run: Callable[[], dict[str, Any]]
    limit_s: float = 600.0


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        name: of the step.
        result: ``passed``, ``FAILED`` or ``not run``.
        why: of a failure, or why it was not run; in one line.
        seconds: it took.
        found: what it measured.
        trace: of an unexpected error.
    """

    name: str
    result: str
    why: str = ""
    seconds: float = 0.0
    found: dict[str, Any] | None = None
    trace: str = ""


def run_step(step: Step) -> Outcome:
    """Run it in a child process and wait; never raises for what happens there."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(step, theirs))
    begin = time.perf_counter()
    child.start()
    theirs.close()
    try:
        # Waited for here and not by join: a child with a long answer ends only after it has been read.
        text = ours.recv() if ours.poll(step.limit_s) else None
        hung = text is None
    except EOFError:
        text, hung = None, False
    if hung:
        child.kill()
    child.join()
    seconds = time.perf_counter() - begin
    if text is not None:
        return Outcome(step.name, seconds=seconds, **json.loads(text))
    why = f"not done in {step.limit_s:g} s" if hung else f"the process ended with exit code {child.exitcode}"
    return Outcome(step.name, "FAILED", why, seconds)


def _child(step: Step, answer: Connection) -> None:
    told: dict[str, Any]
    try:
        told = {"result": "passed", "found": step.run()}
    except Disagreement as error:
        told = {"result": "FAILED", "why": str(error), "found": error.found}
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is this step's result and the next one runs
        lines = str(error).splitlines() or [""]
        told = {"result": "FAILED", "why": f"{type(error).__name__}: {lines[0]}", "trace": traceback.format_exc()}
    answer.send(json.dumps(told))
    answer.close()
