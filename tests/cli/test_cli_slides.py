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


def test_errors_have_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text("{}")
    done = run("crop", str(tmp_path / "no.svs"), "-a", str(tmp_path / "a.geojson"), "-o", str(tmp_path / "crops"))
    assert done.returncode == 1
    assert done.stderr.startswith("glomedge: ")
    assert "there is no such slide" in done.stderr
    assert "Traceback" not in done.stderr
