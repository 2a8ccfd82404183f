"""``make bench``: a script that fails or runs over is named, and its old result does not count as this run's."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import run_all


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in place of ``benchmarks/speed``."""
    folder = tmp_path / "made_up_scripts"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(run_all, "PACKAGE", folder.name)
    return folder


def test_a_script_that_fails_is_named(scripts: Path, tmp_path: Path) -> None:
    (scripts / "bad.py").write_text("raise SystemExit(3)")
    (scripts / "good.py").write_text("import sys; assert sys.argv[1:] == ['--x', '--results', sys.argv[3]]")
    assert run_all.run(run_all.Script("bad", "bad"), tmp_path, 99.0, quick=False) == "exit code 3"
    assert run_all.run(run_all.Script("good", "good", ("--x",)), tmp_path, 99.0, quick=False) == ""


def test_a_script_that_runs_over_is_ended_with_what_it_started(scripts: Path, tmp_path: Path) -> None:
    (scripts / "slow.py").write_text(
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "child.wait()\n"
    )
    why = run_all.run(run_all.Script("slow", "slow", limit_s=5.0), tmp_path, 99.0, quick=False)
    assert why == "not done in 5 s"
    child = Path("/proc") / (tmp_path / "pid").read_text()
    deadline = time.monotonic() + 10
    while child.exists() and "\nState:\tZ" not in (child / "status").read_text():
        assert time.monotonic() < deadline, "the grandchild lives on"
        time.sleep(0.05)


def test_the_last_script_is_told_what_is_left(scripts: Path, tmp_path: Path) -> None:
    (scripts / "rest.py").write_text("import sys; assert sys.argv[3:] == ['--budget', '123', '--quick'], sys.argv")
    script = run_all.Script("rest", "rest", takes_the_rest=True)
    assert run_all.run(script, tmp_path, 123.4, quick=True) == ""


def test_goals_count_this_run_only(tmp_path: Path) -> None:
    start = {"import_s": [0.2, 0.3, 0.5], "ways": {"int8 cpu": {"again_s": [1.4, 1.6, 1.7]}}}
    (tmp_path / "cold_start.json").write_text(json.dumps(start))
    goals = {goal.what: goal for goal in run_all.reached(tmp_path)}
    assert goals["import glomedge.engine, a process of its own"].verdict == "yes"
    assert goals["process start to the first answer, int8"].verdict == "NO"
    assert goals["process start to the first answer, int8"].got == "1.60 s"
    stale = {goal.what: goal for goal in run_all.reached(tmp_path, without={"cold_start"})}
    assert stale["process start to the first answer, int8"].got == "not measured"


def test_goals_take_in_the_scripts_run_by_hand(tmp_path: Path) -> None:
    commands = {"published script": [40.0, 44.0], "glomedge fp32, laid out for onnxruntime": [10.0, 10.5]}
    runs = [
        {"model": "int8", "crops": 300, "shares": [0.97, 0.99, 0.98]},
        {"model": "int8", "crops": 10_000, "shares": [0.94]},
        {"model": "fp32 for onnxruntime", "crops": 300, "shares": [0.96]},
    ]
    costs = [("real", 0.03, 2.1), ("drawn", 0.12, 5.2)]
    maps = {"runs": [{"name": n, "uncertain_share": u, "cost_percent": {"value": v}} for n, u, v in costs]}
    documents = {"published_script": {"samples_s": commands}, "pipeline_overlap": {"runs": runs}, "heatmap_cost": maps}
    for name, document in documents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    goals = {goal.what: goal for goal in run_all.reached(tmp_path)}
    fp32 = goals["whole commands, glomedge fp32, laid out for onnxruntime, against published script"]
    assert (fp32.wanted, fp32.verdict) == (">= 4 x", "yes")
    assert goals["whole commands, glomedge int8, against published script"].got == "not measured"
    share = goals["overlap: share of the core-second limit, int8"]
    assert (share.got, share.verdict) == ("98% of 300, 94% of 10,000 crops", "NO")
    assert goals["overlap: share of the core-second limit, fp32 for onnxruntime"].verdict == "yes"
    longer = {"runs": [{"model": "int8", "crops": 10_000, "shares": [0.96, 0.97]}]}
    (tmp_path / "pipeline_overlap_int8.json").write_text(json.dumps(longer))
    pooled = {goal.what: goal for goal in run_all.reached(tmp_path)}[share.what]
    assert (pooled.got, pooled.verdict) == ("98% of 300, 96% of 10,000 crops", "yes")
    cost = goals["cost of heatmaps for the uncertain crops"]
    assert (cost.got, cost.verdict) == ("2.1% for 3% of real; 5.2% for 12% of drawn", "NO")


def test_every_script_is_there() -> None:
    for script in run_all.SCRIPTS:
        assert importlib.util.find_spec(f"{run_all.PACKAGE}.{script.name}") is not None, script.name
    assert [script.takes_the_rest for script in run_all.SCRIPTS].index(True) == len(run_all.SCRIPTS) - 1


def test_goals_of_other_scripts_and_why_one_is_missed(tmp_path: Path) -> None:
    stem = {"samples_s": {"before": [9.0], "after": [0.9, 0.7, 0.8]}, "crops_a_sample": 40, "multiply_adds": 3.5e9}
    ray = {"ratio_s": {"value": 1.2, "low": 1.1, "high": 1.3}, "model": "model.onnx"}
    documents = {
        "int8_stem": stem | {"ceiling_gmac_per_s": 200.0},
        "ray_cluster": ray,
        "browser_page_int8": {"differences": [1e-8, 2e-7]},
    }
    for name, document in documents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    stem_, job, page, *servers = run_all.by_hand(tmp_path)
    assert (stem_.got, stem_.verdict) == ("88%", "yes")
    assert (job.got, job.verdict) == ("1.20 x (1.10-1.30), model.onnx", "NO")
    assert "engine" in job.reason
    assert (page.got, page.verdict, page.reason) == ("2.0e-07", "yes", "")
    assert {goal.verdict for goal in servers} == {"-"}


def test_goals_of_the_server(tmp_path: Path) -> None:
    """Pixels cost it 4% and files 10% over an engine of 10 ms; one of a hundred requests waits three times as long."""

    def row(kind: str, clients: int, side: str, cpu_s: float) -> dict[str, Any]:
        waits_s = [0.01] * 97 + [0.03] * 3 if side == "glomedge serve" else []
        cpu = {"cpu_s_a_crop": [cpu_s] * 5, "crops_a_s": [1 / cpu_s] * 5}
        return {"kind": kind, "clients": clients, "side": side, "waits_s": waits_s, **cpu}

    rows = [
        row(kind, clients, side, cpu_s)
        for kind, served_s in (("pixels", 0.0104), ("files", 0.011))
        for clients in (1, 4, 16)
        for side, cpu_s in (("engine alone", 0.01), ("glomedge serve", served_s), ("least server", 0.0102))
        if side != "least server" or clients == 1
    ]
    (tmp_path / "serving_int8.json").write_text(json.dumps({"rows": rows}))
    alone, many, rate, waits = run_all.by_hand(tmp_path)[-4:]
    assert (alone.got, alone.verdict) == ("1.040, 1.100", "NO")
    assert (many.got, many.verdict) == ("1.040, 1.100", "NO")
    assert (rate.got, rate.verdict) == ("0.962, 0.909", "NO")
    assert (waits.got, waits.verdict) == ("3.00, 3.00", "NO")
    assert alone.reason.endswith("takes 1.020, 1.020")
    assert not many.reason
    for one in rows:
        one["cpu_s_a_crop"], one["crops_a_s"], one["waits_s"] = [0.01] * 5, [100.0] * 5, [0.01] * 100
    (tmp_path / "serving_int8.json").write_text(json.dumps({"rows": rows}))
    assert [goal.verdict for goal in run_all.by_hand(tmp_path)[-4:]] == ["yes"] * 4
