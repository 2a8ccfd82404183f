"""``glomedge synth-slide`` and ``glomedge crop`` from the command line, the one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "glomedge", *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def test_draw_then_cut(tmp_path: Path) -> None:
    drawn = run("synth-slide", str(tmp_path / "slides"), "--glomeruli", "3", "--cases", "1", "--json")
    assert drawn.returncode == 0, drawn.stderr
    summary = json.loads(drawn.stdout)
    assert (summary["glomeruli"], summary["cases"]) == (3, 1)
    slide = tmp_path / "slides" / summary["slides"][0]
    done = run("crop", str(slide), "--annotations", str(slide.with_suffix(".geojson")), "-o", str(tmp_path / "crops"))
    assert done.returncode == 0, done.stderr
    assert "Research use only" in done.stdout
    assert "Left out by class: tissue (1)" in done.stdout
    assert list((tmp_path / "crops").rglob("*.png"))


def test_draw_then_infer(tmp_path: Path, tiny_model: Path) -> None:
    drawn = run(
        "synth-slide",
        str(tmp_path / "slides"),
        "--glomeruli",
        "3",
        "--cases",
        "1",
        "--positive-fraction",
        "1",
        "--json",
    )
    name = json.loads(drawn.stdout)["slides"][0]
    slide, out = tmp_path / "slides" / name, tmp_path / "out"
    marks = (tmp_path / "slides" / "other-formats" / name).with_suffix(".dsa.json")
    options = ["--model", str(tiny_model), "--output", str(out), "--provider", "cpu", "--format", "geojson"]
    done = run("infer", str(slide), "--annotations", str(marks), "--class", "globally_sclerotic_glomeruli", *options)
    assert done.returncode == 0, done.stderr
    assert len((out / "predictions.csv").read_text("utf-8").splitlines()) == 4
    done = run("infer", str(tmp_path / "slides"), *options)
    assert done.returncode == 0, done.stderr
    assert "Left out by class: tissue (1)" in done.stdout
    assert "2 files in annotations/" in done.stdout
    assert "Research use only" in done.stdout
    assert (out / "annotations" / name).with_suffix(".geojson").is_file()
    done = run("infer", str(tmp_path / "slides"), "--annotations", str(marks), *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("glomedge: ")
    assert "--annotations belongs to one slide" in done.stderr


def test_errors_have_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text("{}")
    done = run("crop", str(tmp_path / "no.svs"), "-a", str(tmp_path / "a.geojson"), "-o", str(tmp_path / "crops"))
    assert done.returncode == 1
    assert done.stderr.startswith("glomedge: ")
    assert "there is no such slide" in done.stderr
    assert "Traceback" not in done.stderr
