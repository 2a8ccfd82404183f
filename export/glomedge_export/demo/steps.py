"""The commands of the demo, in order, and what each leaves in the demo folder."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glomedge.system.cpu import has_native_bf16
from glomedge_export.demo.reader import answer_as_drawn
from glomedge_export.demo.request import ask_server

HOME, AWAY = "lab 1", "lab 2"
"""The laboratory whose crops the model is trained on, and the other one."""


@dataclass(frozen=True)
class Step:
    """One step of the demo.

    Attributes:
        says: the line printed above the command.
        command: as typed, or in words where ``action`` does what a person would do.
        makes: what it leaves in the demo folder; removed before the step runs, because an
            interrupted attempt may have left half of it.
        needs: packages without which it is left out.
        extra: the extra of glomedge that brings them.
        action: does the step in place of the command, in the demo folder; prints lines.
    """

    says: str
    command: str
    makes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    extra: str = ""
    action: Callable[[Path, Callable[[str], None]], None] | None = None

    @property
    def missing(self) -> bool:
        """Whether a package that it needs is not installed."""
        return any(importlib.util.find_spec(package) is None for package in self.needs)

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows ``glomedge`` on the command line."""
        return tuple(shlex.split(self.command)[1:])


@dataclass(frozen=True)
class Spent:
    """What one step took: wall-clock and processor seconds (those of its processes, over all cores)."""

    seconds: float
    processor_seconds: float


def demo_steps(*, bfloat16: bool) -> tuple[Step, ...]:
    """All of them; ``bfloat16``: train in it, which takes half the time on processors that have it."""
    dtype = " --compute-dtype bfloat16" if bfloat16 else ""
    return (*_home(dtype), *_slides(), *_away(), _server())


def _home(dtype: str) -> tuple[Step, ...]:
    return (
        Step(
            "Draw crops to train on",
            "glomedge synth data --crops 600 --cases 30 --positive-fraction 0.4 --seed 1",
            ("data",),
        ),
        Step(
            "Draw tonight's biopsies, which training never sees",
            "glomedge synth night --crops 120 --cases 6 --seed 2",
            ("night",),
        ),
        Step(
            "Train all layers, on windows of the crops",
            "glomedge train data --weights none --pretrain-epochs 6 --pretrain-window 80 --augment standard --epochs 0"
            f" --threshold youden --site '{HOME}'{dtype}",
            ("artifacts",),
        ),
        Step(
            "Export to one ONNX file and prove it equal to Keras",
            "glomedge export --gate-crops 64",
            ("artifacts/model.onnx", "artifacts/model.card.md"),
        ),
        Step("Call tonight's crops", f"glomedge infer night --site '{HOME}'", ("predictions",)),
    )


def _slides() -> tuple[Step, ...]:
    return (
        Step(
            "Draw whole slides with their outlines",
            "glomedge synth-slide slides --glomeruli 24 --cases 2 --seed 3",
            ("slides",),
        ),
        Step(
            "Call the outlined glomeruli, and write the calls back for QuPath",
            f"glomedge infer slides --output on-slides --format geojson --site '{HOME}'",
            ("on-slides",),
            ("openslide", "shapely"),
            "slides",
        ),
    )


def _away() -> tuple[Step, ...]:
    return (
        Step(
            "Draw biopsies of another laboratory, which stains and scans otherwise",
            "glomedge synth away --laboratory 2 --crops 90 --cases 6 --seed 4",
            ("away",),
        ),
        Step(
            "Draw others of it, to see what the labels will have been good for",
            "glomedge synth away-check --laboratory 2 --crops 90 --cases 6 --seed 5",
            ("away-check",),
        ),
        Step("Call them with the model as it is", "glomedge infer away-check --output before", ("before",)),
        Step("Choose 30 crops for a reader to label", "glomedge label away -n 30", ("labelling",)),
        Step(
            "A reader labels them in the browser; here the drawn truth answers",
            "labelling/label.html, Save labels.csv",
            ("labelling/labels.csv",),
            action=answer_as_drawn,
        ),
        Step(
            "Make the model right for that laboratory",
            "glomedge recalibrate artifacts/model.onnx labelling/labels.csv --images away"
            f" --site '{AWAY}' --output away.onnx",
            ("away.onnx", "away.card.md"),
        ),
        Step(
            "Call the other biopsies again",
            f"glomedge infer away-check --model away.onnx --site '{AWAY}' --output after",
            ("after",),
        ),
        Step(
            "Put it on record",
            "glomedge evaluate away-check --model away.onnx --report validation.html",
            ("validation.html",),
        ),
    )


def _server() -> Step:
    return Step(
        "Serve the model, ask it once over HTTP, stop it",
        "glomedge serve artifacts/model.onnx --port 0 --no-grpc",
        ("request.json", "answer.json"),
        ("starlette", "uvicorn", "httptools"),
        "serve",
        ask_server,
    )


STEPS = demo_steps(bfloat16=has_native_bf16())
