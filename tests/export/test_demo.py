"""The demo's runner with commands that are stood in for, and (slow) the demo itself."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import GlomedgeError, MissingExtraError, OutputError, UsageError
from glomedge.model.spec import OperatingPoint
from glomedge_export.demo.run import RECORD_FILE, places, run_demo, run_glomedge
from glomedge_export.demo.steps import HOME, STEPS, Step, demo_steps
from helpers.builders import build_tiny_model
from helpers.demo_tables import write_answers, write_labels
from helpers.sites import training_provenance

TINY = (
    Step("draw", "glomedge synth night", ("night", "away-check")),
    Step("infer", "glomedge infer night", ("predictions", "before", "after")),
)


class FakeGlomedge:
    """Stands in for the commands: leaves the tables from which the demo reads its figures."""

    def __init__(self, probabilities: Sequence[object], labels: Sequence[int], fail_at: str = "") -> None:
        self.probabilities, self.labels, self.fail_at = probabilities, labels, fail_at
        self.ran: list[str] = []

    def __call__(self, arguments: Sequence[str], directory: Path) -> int:
        command = arguments[0]
        self.ran.append(command)
        if command == self.fail_at:
            return 3
        if command == "synth":
            for folder in ("night", "away-check"):
                write_labels(directory / folder / "public.csv", self.labels)
        else:
            assert not (directory / "predictions").exists()
            for folder in ("predictions", "before", "after"):
                write_answers(directory / folder, self.probabilities)
        return 0


LEARNT = ([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0])


def test_runs_every_step_in_order_and_notes_it(tmp_path: Path) -> None:
    lines: list[str] = []
    fake = FakeGlomedge(*LEARNT)
    result = run_demo(tmp_path / "demo", steps=TINY, runner=fake, say=lines.append)
    assert fake.ran == ["synth", "infer"]
    assert result.night.auroc == 1.0
    assert result.night.crops == 4
    assert [line for line in "\n".join(lines).splitlines() if line.startswith("$ glomedge")] == [
        "$ glomedge synth night",
        "$ glomedge infer night",
    ]
    record = json.loads((tmp_path / "demo" / RECORD_FILE).read_text())
    for kind in ("seconds", "processor_seconds"):
        assert set(record[kind]) == {"glomedge synth night", "glomedge infer night"}
    assert record["night"]["auroc"] == 1.0
    assert RESEARCH_USE_NOTICE in record["notice"]
    assert (tmp_path / "demo" / "demo.html").is_file()


def test_steps_on_slides_are_left_out_where_their_packages_are_missing(tmp_path: Path) -> None:
    lines: list[str] = []
    absent = Step("slides", "glomedge infer slides", ("on-slides",), ("no_such_package",), "slides")
    fake = FakeGlomedge(*LEARNT)
    result = run_demo(tmp_path / "demo", steps=(*TINY, absent), runner=fake, say=lines.append)
    assert fake.ran == ["synth", "infer"]
    assert "left out: it needs no_such_package" in lines[-1]
    assert "[slides]" in lines[-1]
    assert "glomedge infer slides" not in result.spent


def test_a_person_s_step_is_done_by_its_action(tmp_path: Path) -> None:
    lines: list[str] = []

    def act(directory: Path, say: object) -> None:
        (directory / "label").write_text("done")

    steps = (*TINY, Step("A reader labels", "label.html, Save", ("label",), action=act))
    result = run_demo(tmp_path, steps=steps, runner=FakeGlomedge(*LEARNT), say=lines.append)
    assert "(label.html, Save)" in lines[-1], "nobody can type this: no dollar sign"
    assert (tmp_path / "label").read_text() == "done"
    assert "label.html, Save" in result.spent


def test_a_broken_off_demo_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(GlomedgeError, match=r"'glomedge infer night' ended with exit code 3.*continues from here"):
        run_demo(tmp_path, steps=TINY, runner=FakeGlomedge(*LEARNT, fail_at="infer"), say=lambda _: None)
    (tmp_path / "predictions").mkdir()  # a half-written output must not hinder the second try
    again = FakeGlomedge(*LEARNT)
    run_demo(tmp_path, steps=TINY, runner=again, say=lambda _: None)
    assert again.ran == ["infer"]


def test_steps_after_a_repeated_one_are_repeated(tmp_path: Path) -> None:
    run_demo(tmp_path, steps=TINY, runner=FakeGlomedge(*LEARNT), say=lambda _: None)
    changed = (Step("draw", "glomedge synth night --seed 3", ("night", "away-check")), TINY[1])
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
    assert json.loads((tmp_path / RECORD_FILE).read_text())["night"]["auroc"] == 0.5


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
    assert [step.command for step in demo_steps(bfloat16=False)] == [
        step.command.replace(" --compute-dtype bfloat16", "") for step in demo_steps(bfloat16=True)
    ]
    shown: dict[str, str] = {}
    for step in demo_steps(bfloat16=True):
        if not step.command.startswith("glomedge "):
            assert step.action is not None
            continue
        command = step.arguments[0]
        if command not in shown:
            shown[command] = subprocess.run(
                [sys.executable, "-m", "glomedge", command, "--help"],
                capture_output=True,
                text=True,
                check=True,
                env={"COLUMNS": "300", "PATH": "", "TERM": "dumb"},
            ).stdout
        for option in (argument for argument in step.arguments if argument.startswith("-")):
            assert option in shown[command], step.command
    made = [made for step in STEPS for made in step.makes]
    for one, other in itertools.combinations(made, 2):
        assert one != other


def test_the_steps_fit_together(tmp_path: Path) -> None:
    """The demo's own command lines on fewer crops, with a tiny model in place of the trained and exported one."""

    def shortened(step: Step) -> Step:
        if not step.command.startswith("glomedge "):
            return step
        # Enough labels of either class for the reader; little of everything else.
        few = {"--crops": "24" if " away " in step.command else "10", "--cases": "4", "-n": "22", "--glomeruli": "4"}
        typed = shlex.split(step.command)
        changed = [few.get(option, value) for option, value in zip(("", *typed), typed, strict=False)]
        return dataclasses.replace(step, command=shlex.join(changed))

    def runner(arguments: Sequence[str], directory: Path) -> int:
        if arguments[0] == "train":
            (directory / "artifacts").mkdir()
            return 0
        if arguments[0] == "export":
            point = OperatingPoint(true_positive=40, false_negative=2, true_negative=50, false_positive=3)
            training = training_provenance(site=HOME)
            build_tiny_model(directory / "artifacts" / "model.onnx", operating_point=point, training=training)
            return 0
        return run_glomedge(arguments, directory)

    lines: list[str] = []
    # A mean colour tells nothing about drawn crops: below the demo's mark.
    with pytest.raises(GlomedgeError, match="did not learn"):
        run_demo(tmp_path, steps=[shortened(step) for step in STEPS], runner=runner, say=lines.append)
    record = json.loads((tmp_path / RECORD_FILE).read_text())
    present = [step for step in STEPS if not step.missing]
    assert len(record["seconds"]) == len(present), "a step failed"
    assert record["night"]["crops"] == record["before"]["crops"] == record["after"]["crops"] == 10
    for step in present:
        if step.arguments[:1] != ("export",):
            for made in step.makes:
                assert (tmp_path / made).exists(), made
    shown = {str(path.relative_to(tmp_path)) for path, _ in places(tmp_path)}
    assert {"demo.html", "predictions/report.html", "validation.html", "artifacts/model.onnx"} <= shown
    page = (tmp_path / "demo.html").read_text(encoding="utf-8")
    for target in re.findall(r'href="([^"#]+)"', page):
        assert (tmp_path / target).exists(), target


@pytest.mark.slow
@pytest.mark.keras
def test_the_demo_itself(tmp_path: Path) -> None:
    """Whole, as ``make demo`` runs it: what it is to convince by."""
    done = subprocess.run(
        [sys.executable, "-m", "glomedge", "demo", "demo", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["notice"] == RESEARCH_USE_NOTICE
    night = result["night"]
    assert night["auroc"] >= 0.98
    assert night["sensitivity"] >= 0.9
    assert night["specificity"] >= 0.9
    assert night["review_share"] <= 0.15
    assert all(biopsy["corrected"] is not None and biopsy["held"] for biopsy in night["biopsies"])
    before, after = (result["other_laboratory"][when] for when in ("before", "after"))
    assert min(after["sensitivity"], after["specificity"]) > min(before["sensitivity"], before["specificity"])
    assert after["percent_gs_mean_error"] < before["percent_gs_mean_error"]
    assert all(biopsy["corrected"] is not None and biopsy["held"] for biopsy in after["biopsies"])
    assert set(result["seconds"]) == {step.command for step in STEPS if not step.missing}
    demo = tmp_path / "demo"
    for path in ("demo.html", "predictions/predictions.csv", "predictions/cases.csv", "predictions/report.html"):
        assert RESEARCH_USE_NOTICE in (demo / path).read_text(encoding="utf-8"), path
    drawn = {path.stem for path in (demo / "slides").glob("*.svs")}
    assert {path.stem for path in (demo / "on-slides" / "annotations").glob("*.geojson")} == drawn
    for made in (made for step in STEPS if not step.missing for made in step.makes):
        assert (demo / made).exists(), made
