"""The demo's pieces with commands that are stood in for, and (slow) the demo itself."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import importlib.util
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import GlomedgeError, MissingExtraError, OutputError, UsageError
from glomedge_export.demo import MIN_AUROC, RECORD_FILE, STEPS, DemoResult, Step, auroc_of, run_demo, run_glomedge
from helpers.builders import build_tiny_model

TINY = (
    Step(("synth", "night"), ("night",), "draw"),
    Step(("infer", "night"), ("predictions",), "infer"),
)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


class FakeGlomedge:
    """Stands in for the commands: leaves the two tables from which the demo reads its figure."""

    def __init__(self, probabilities: Sequence[object], labels: Sequence[int], fail_at: str = "") -> None:
        self.probabilities, self.labels, self.fail_at = probabilities, labels, fail_at
        self.ran: list[str] = []

    def __call__(self, arguments: Sequence[str], directory: Path) -> int:
        command = arguments[0]
        self.ran.append(command)
        if command == self.fail_at:
            return 3
        names = [f"{index}.png" for index in range(len(self.labels))]
        if command == "synth":
            write_csv(
                directory / "night/public.csv", ("name", "ground truth"), list(zip(names, self.labels, strict=True))
            )
        else:
            assert not (directory / "predictions").exists()
            rows = [(f"sub/{name}", value) for name, value in zip(names, self.probabilities, strict=True)]
            write_csv(directory / "predictions/predictions.csv", ("path", "probability"), rows)
        return 0


LEARNT = ([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0])


def test_runs_every_step_in_order_and_notes_it(tmp_path: Path) -> None:
    lines: list[str] = []
    fake = FakeGlomedge(*LEARNT)
    result = run_demo(tmp_path / "demo", steps=TINY, runner=fake, say=lines.append)
    assert fake.ran == ["synth", "infer"]
    assert result.auroc == 1.0
    assert result.crops == 4
    assert [line for line in "\n".join(lines).splitlines() if line.startswith("$ glomedge")] == [
        "$ glomedge synth night",
        "$ glomedge infer night",
    ]
    record = json.loads((tmp_path / "demo" / RECORD_FILE).read_text())
    assert set(record["seconds"]) == {"glomedge synth night", "glomedge infer night"}
    assert record["auroc"] == 1.0
    assert RESEARCH_USE_NOTICE in record["notice"]


def test_steps_on_slides_are_left_out_where_their_packages_are_missing(tmp_path: Path) -> None:
    lines: list[str] = []
    absent = Step(("infer", "slides"), ("on-slides",), "slides", ("no_such_package",))
    fake = FakeGlomedge(*LEARNT)
    result = run_demo(tmp_path / "demo", steps=(*TINY, absent), runner=fake, say=lines.append)
    assert fake.ran == ["synth", "infer"]
    assert "left out: it needs no_such_package" in lines[-1]
    assert "glomedge infer slides" not in result.seconds


def test_a_broken_off_demo_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(GlomedgeError, match=r"'glomedge infer night' ended with exit code 3.*continues from here"):
        run_demo(tmp_path, steps=TINY, runner=FakeGlomedge(*LEARNT, fail_at="infer"), say=lambda _: None)
    (tmp_path / "predictions").mkdir()  # a half-written output must not hinder the second try
    again = FakeGlomedge(*LEARNT)
    run_demo(tmp_path, steps=TINY, runner=again, say=lambda _: None)
    assert again.ran == ["infer"]


def test_steps_after_a_repeated_one_are_repeated(tmp_path: Path) -> None:
    run_demo(tmp_path, steps=TINY, runner=FakeGlomedge(*LEARNT), say=lambda _: None)
    changed = (Step(("synth", "night", "--seed", "3"), ("night",), "draw"), TINY[1])
    again = FakeGlomedge(*LEARNT)
    run_demo(tmp_path, steps=changed, runner=again, say=lambda _: None)
    assert again.ran == ["synth", "infer"]


def test_fresh_starts_again_and_keeps_what_it_did_not_make(tmp_path: Path) -> None:
    run_demo(tmp_path, steps=TINY, runner=FakeGlomedge(*LEARNT), say=lambda _: None)
    (tmp_path / "my-notes.txt").write_text("keep")
    (tmp_path / "artifacts").mkdir()
    again = FakeGlomedge(*LEARNT)
    run_demo(tmp_path, steps=TINY, runner=again, fresh=True, say=lambda _: None)
    assert again.ran == ["synth", "infer"]
    assert (tmp_path / "my-notes.txt").read_text() == "keep"
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("content", ["", "{}", "not json", '{"demo": "other"}'])
def test_a_folder_that_is_no_demo_is_refused_untouched(tmp_path: Path, fresh: bool, content: str) -> None:
    (tmp_path / RECORD_FILE if content else tmp_path / "data").write_text(content)
    fake = FakeGlomedge(*LEARNT)
    with pytest.raises(UsageError, match="not a demo folder"):
        run_demo(tmp_path, steps=TINY, runner=fake, fresh=fresh, say=lambda _: None)
    assert not fake.ran
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="name a folder"):
        run_demo(tmp_path / "file", steps=TINY, runner=FakeGlomedge(*LEARNT), say=lambda _: None)
    with pytest.raises(OutputError, match="you can write to"):
        run_demo(tmp_path / "file" / "below", steps=TINY, runner=FakeGlomedge(*LEARNT), say=lambda _: None)


def test_a_model_that_did_not_learn_fails_the_demo(tmp_path: Path) -> None:
    guessing = FakeGlomedge([0.5, 0.4, 0.5, 0.4], [1, 1, 0, 0])
    with pytest.raises(GlomedgeError, match=r"did not learn: AUROC 0\.500"):
        run_demo(tmp_path, steps=TINY, runner=guessing, say=lambda _: None)
    assert json.loads((tmp_path / RECORD_FILE).read_text())["auroc"] == 0.5


def test_auroc_is_that_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    scores = np.round(rng.normal(labels * 0.7, 1.0), 1)  # rounded, so that ties occur
    FakeGlomedge(scores.tolist(), labels.tolist())(("synth",), tmp_path)
    FakeGlomedge(scores.tolist(), labels.tolist())(("infer",), tmp_path)
    value, crops = auroc_of(tmp_path / "predictions/predictions.csv", tmp_path / "night/public.csv")
    assert crops == 60
    assert value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_a_crop_without_probability_is_an_error_not_a_smaller_sample(tmp_path: Path) -> None:
    fake = FakeGlomedge([0.9, "", 0.3, 0.1], [1, 1, 0, 0])
    with pytest.raises(GlomedgeError, match=r"no probability for 1 labelled crops, 1\.png"):
        run_demo(tmp_path, steps=TINY, runner=fake, say=lambda _: None)


@pytest.mark.parametrize(
    ("absent", "extras"), [("tensorflow", "[export]"), ("tf2onnx", "[export]"), ("onnxruntime", "[export,cpu]")]
)
def test_a_missing_package_names_the_extras_that_bring_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str, extras: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else object())
    with pytest.raises(MissingExtraError, match=re.escape(extras)):
        run_demo(tmp_path / "demo", say=lambda _: None)
    assert not (tmp_path / "demo").exists()


def test_steps_run_the_real_command_line(tmp_path: Path) -> None:
    assert run_glomedge(["synth", "drawn", "--crops", "4", "--cases", "2"], tmp_path) == 0
    assert (tmp_path / "drawn" / "public.csv").is_file()
    assert run_glomedge(["no-such-command"], tmp_path) != 0


def test_every_step_is_a_command_that_exists() -> None:
    """Each option that the demo uses is one the command line knows; none is hidden in the demo alone."""
    for step in STEPS:
        options = [argument for argument in step.arguments if argument.startswith("--")]
        shown = subprocess.run(
            [sys.executable, "-m", "glomedge", step.arguments[0], "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "300", "PATH": "", "TERM": "dumb"},
        ).stdout
        for option in options:
            assert option in shown, step.command
    made = [made for step in STEPS for made in step.makes]
    for one, other in itertools.combinations(made, 2):
        assert one != other


def test_the_steps_fit_together(tmp_path: Path) -> None:
    """The demo's own command lines on fewer crops, with a tiny model in place of the trained and exported one."""
    smaller = {"--crops": "8", "--cases": "2", "--duration": "0.2", "--batch-size": "1"}

    def shortened(step: Step) -> Step:
        after = ("", *step.arguments)
        arguments = tuple(smaller.get(option, value) for option, value in zip(after, step.arguments, strict=False))
        return dataclasses.replace(step, arguments=arguments)

    def runner(arguments: Sequence[str], directory: Path) -> int:
        if arguments[0] == "train":
            (directory / "artifacts").mkdir()
            return 0
        if arguments[0] == "export":
            build_tiny_model(directory / "artifacts" / "model.onnx")
            return 0
        return run_glomedge(arguments, directory)

    with contextlib.suppress(GlomedgeError):  # a mean colour tells nothing about drawn crops: below the demo's mark
        run_demo(tmp_path, steps=[shortened(step) for step in STEPS], runner=runner, say=lambda _: None)
    record = json.loads((tmp_path / RECORD_FILE).read_text())
    assert len(record["seconds"]) == len(STEPS), "a step failed"
    assert record["crops"] == 8
    assert 0 <= record["auroc"] <= 1
    for made in (made for step in STEPS for made in step.makes):
        assert (tmp_path / made).exists(), made
    result = DemoResult(tmp_path, record["auroc"], record["crops"], record["seconds"])
    shown = {str(path.relative_to(tmp_path)) for path, _ in result.places()}
    assert {"predictions/predictions.csv", "predictions/cases.csv", "predictions/report.html"} <= shown
    assert {"artifacts/model.onnx", "bench/bench.html", RECORD_FILE} <= shown


@pytest.mark.slow
@pytest.mark.keras
def test_the_demo_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "glomedge", "demo", "demo", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["auroc"] >= MIN_AUROC
    assert result["notice"] == RESEARCH_USE_NOTICE
    for path in ("predictions/predictions.csv", "predictions/cases.csv", "predictions/report.html"):
        assert RESEARCH_USE_NOTICE in (tmp_path / "demo" / path).read_text(encoding="utf-8"), path
    drawn = {path.stem for path in (tmp_path / "demo" / "slides").glob("*.svs")}
    assert {path.stem for path in (tmp_path / "demo" / "on-slides" / "annotations").glob("*.geojson")} == drawn
    for path in ("artifacts/model.onnx", "artifacts/training-report.html"):
        assert (tmp_path / "demo" / path).is_file(), path
