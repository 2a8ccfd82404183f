"""``glomedge infer-ray`` while things die: every input has one row, and it is the row of an undisturbed run."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from glomedge.cluster.options import CohortOptions
from glomedge.engine.options import EngineOptions
from glomedge.runs.manifest import write_manifest
from glomedge.runs.options import Options
from helpers.builders import build_tiny_model
from helpers.cohort_kit import plainly, poison, published, require_poisoned, require_same
from helpers.ray_kit import driver, kill_driver, parts_of, two_nodes, wait_for_parts, workers_of
from helpers.run_kit import write_crops

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra ray)"),
]
KILLS_OF_WORKERS, KILLS_OF_DRIVERS = 20, 10


def cohort(folder: Path, crops: int) -> CohortOptions:
    """Crops in parts of 16, two of them broken, one of them vanished."""
    names = write_crops(folder / "crops", crops, broken=2)
    build_tiny_model(folder / "model.onnx")
    write_manifest(folder / "crops", folder / "crops.parquet")
    (folder / "crops" / names[500]).unlink()
    run = Options(
        folder / "crops", folder / "model.onnx", engine=EngineOptions("cpu"), inputs=folder / "crops.parquet",
        report=False,
    )  # fmt: skip
    return CohortOptions(run, str(folder / "out"), workers=1, cpus_per_worker=1, part_rows=16)


@pytest.fixture
def many(tmp_path: Path) -> CohortOptions:
    """1,600 crops in 100 parts."""
    return cohort(tmp_path, 1600)


def test_workers_killed_at_random(tmp_path: Path) -> None:
    many = cohort(tmp_path, 6400)  # enough for 20 kills: while one worker starts again, the other one goes on
    rng, kills = random.Random(21), 0
    with driver(replace(many, workers=2), "--no-report") as process:
        # Once a part is done since the last one, so that the job always gets on.
        while kills < KILLS_OF_WORKERS and wait_for_parts(process, many, parts_of(many) + 1):
            time.sleep(rng.random() * 0.1)
            if workers := workers_of(process):
                rng.choice(workers).kill()
                kills += 1
        said = process.communicate()[0]
    assert process.returncode == 2, said
    assert kills == KILLS_OF_WORKERS
    require_same(published(many.output), plainly(many, tmp_path / "plain"))


def test_drivers_killed_and_resumed(many: CohortOptions, tmp_path: Path) -> None:
    rng = random.Random(22)
    for kill in range(KILLS_OF_DRIVERS):
        with driver(many, "--no-report", "--resume") as process:
            assert wait_for_parts(process, many, parts_of(many) + rng.randint(1, 3)), process.communicate()[0]
            kill_driver(process)
        assert parts_of(many) < 60, f"all was done before kill {kill + 1}"
    with driver(many, "--no-report", "--resume") as process:
        said = process.communicate()[0]
    assert process.returncode == 2, said
    require_same(published(many.output), plainly(many, tmp_path / "plain"))


def test_a_node_that_leaves_for_good_costs_no_part(many: CohortOptions, tmp_path: Path) -> None:
    """Its worker has no room anywhere before the other one has nothing to do any more."""
    two = replace(many, workers=2)
    with two_nodes() as (cluster, nodes), driver(two, "--no-report", "--json", cluster=cluster) as process:
        assert wait_for_parts(process, many, 10), process.communicate()[0]
        assert len(workers_of(nodes)) == 2
        assert nodes.stdin is not None
        nodes.stdin.write("leave\n")
        nodes.stdin.flush()
        assert nodes.stdout is not None
        assert nodes.stdout.readline() == "left\n"
        left_at = parts_of(many)
        said = process.communicate()[0]
    assert left_at < 90
    assert process.returncode == 2, said
    assert said.count("Note: Ray says: (raylet) Task RayWorker.answer failed.") == 1
    assert json.loads(said[said.index("{\n") :])["rows"] == 1600  # nothing of Ray's stands in the record
    require_same(published(many.output), plainly(many, tmp_path / "plain"))


def test_a_worker_of_another_version_ends_the_run_with_a_sentence(
    many: CohortOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys\n"
        "if any('default_worker' in each for each in sys.orig_argv):\n"
        "    import glomedge.about\n"
        "    glomedge.about.__version__ = '0.0.1'\n"
    )
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path / "site"), os.environ.get("PYTHONPATH"))))
    )
    with driver(many, "--no-report") as process:
        said = process.communicate()[0]
    assert process.returncode == 1, said
    assert "and a worker has 0.0.1. Install the same version on every node." in " ".join(said.split())
    assert "Traceback" not in said


def test_two_drivers_on_one_output(many: CohortOptions, tmp_path: Path) -> None:
    with driver(many, "--no-report") as first:
        assert wait_for_parts(first, many, 1)
        with driver(many, "--no-report", "--resume") as second:
            refused = second.communicate()[0]
        assert second.returncode == 1
        assert "Another run" in refused
        said = first.communicate()[0]
    assert first.returncode == 2, said
    require_same(published(many.output), plainly(many, tmp_path / "plain"))


def test_too_few_cpus_end_at_once(many: CohortOptions) -> None:
    with driver(replace(many, cpus_per_worker=1 + (os.cpu_count() or 1))) as process:
        said = process.communicate()[0]
    assert process.returncode == 1
    assert "Too few CPUs" in said
    assert not Path(many.output, "run.json").exists()


def test_a_crop_that_ends_every_decoder_costs_its_row(
    many: CohortOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, expected = "a/case0-30.png", plainly(many, tmp_path / "plain")
    monkeypatch.setenv("PYTHONPATH", poison(tmp_path / "poison", many.run.folder / name))
    with driver(many, "--no-report") as process:
        said = process.communicate()[0]
    assert process.returncode == 2, said
    require_poisoned(published(many.output), expected, name)
