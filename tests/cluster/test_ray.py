"""``glomedge infer-ray`` on Ray itself: one job on a cluster of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from glomedge.cluster import ray_job
from glomedge.cluster.cohort import infer_cohort
from glomedge.cluster.options import CohortOptions
from glomedge.cluster.plan import Plan
from glomedge.cluster.store import Store
from glomedge.errors import GlomedgeError, MissingExtraError, UsageError
from helpers.cohort_kit import plainly, published, require_same
from helpers.ray_kit import driver

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra ray)")


@needs_ray
def test_a_job_has_the_rows_of_infer(cohort: CohortOptions, tmp_path: Path) -> None:
    with driver(replace(cohort, workers=1), "--json", "--no-report") as process:
        assert process.stdout is not None
        listening = set[str]()
        while process.poll() is None:
            listening |= _listening(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
        said = process.stdout.read()
    assert process.returncode == 2, said
    require_same(published(cohort.output), plainly(cohort, tmp_path / "plain"))
    record = json.loads(said[said.index("{") :])
    assert record["rows"] == record["rows_of_this_run"] == 90
    assert record["arguments"]["cpus_per_worker"] == 1
    # Nothing of the cluster can be reached from another machine.
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def _listening(pid: int) -> set[str]:
    found = set[str]()
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for process in family:
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        found |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    return found


def test_without_ray_the_extra_is_named(cohort: CohortOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "kept for monkeypatch, which puts back what was there")
        monkeypatch.delenv(name)
    with pytest.raises(
        MissingExtraError,
        match=r"infer-ray needs the package 'ray\[data\]', which is not installed here\. Install it with: .*\[ray\]",
    ):
        infer_cohort(cohort, ray_job.RayPool())


class Cluster:
    """What is asked of a Ray that has these nodes."""

    def __init__(self, nodes: list[dict[str, float]], free: list[dict[str, float]] | None = None) -> None:
        self._nodes = nodes
        self._free = nodes if free is None else free

    @property
    def _private(self) -> Any:
        by_node = {str(number): free for number, free in enumerate(self._free)}
        return SimpleNamespace(state=SimpleNamespace(available_resources_per_node=lambda: by_node))

    def nodes(self) -> list[dict[str, object]]:
        return [{"Alive": True, "Resources": node} for node in self._nodes]


class Client(Cluster):
    """The same by ``ray://``, which tells what is free of all nodes together alone."""

    @property
    def _private(self) -> Any:
        raise RuntimeError("not connected")

    def available_resources(self) -> dict[str, float]:
        return {"CPU": sum(node.get("CPU", 0) for node in self._free)}


class OfCpus:
    """What of a job decides on the room that it needs."""

    def __init__(self, cpus: int, provider: str = "cpu") -> None:
        from glomedge.engine.options import EngineOptions

        self.cpus, self.engine = cpus, EngineOptions(provider)


def room(cluster: Cluster, cpus: int, wanted: int | None = None, parts: int = 100, provider: str = "cpu") -> int:
    return ray_job._room(cluster, OfCpus(cpus, provider), wanted, parts)  # type: ignore[arg-type]


def test_as_many_workers_as_there_is_room_for() -> None:
    assert room(Cluster([{"CPU": 16}, {"CPU": 7}]), cpus=2) == 11
    assert room(Cluster([{"CPU": 16}, {"CPU": 7}]), cpus=2, wanted=3) == 3
    assert room(Cluster([{"CPU": 16}]), cpus=2, parts=5) == 5
    assert room(Cluster([{"CPU": 16}], free=[{"CPU": 5}]), cpus=2) == 2
    assert room(Client([{"CPU": 16}, {"CPU": 7}], free=[{"CPU": 1}, {"CPU": 5}]), cpus=2) == 3
    assert room(Cluster([{"CPU": 16, "GPU": 2}], free=[{"CPU": 16, "GPU": 2}]), cpus=4, provider="cuda") == 2


def test_too_few_cpus_are_a_sentence_not_a_wait() -> None:
    two = Cluster([{"CPU": 2}])
    with pytest.raises(
        UsageError, match=r"Too few CPUs: 1 workers need 4 CPUs each .* has 2 CPUs on 1 node: room for 0"
    ):
        room(two, cpus=4)
    with pytest.raises(UsageError, match=r"3 workers need 1 CPUs each .* room for 2\. Give fewer --workers"):
        room(two, cpus=1, wanted=3)
    with pytest.raises(UsageError, match="Every CPU of this Ray cluster is in use"):
        room(Cluster([{"CPU": 2}], free=[{}]), cpus=1)
    with pytest.raises(UsageError, match="has 4 CPUs on 2 nodes, and not 2 CPUs free on one node for a worker"):
        room(Cluster([{"CPU": 2}, {"CPU": 2}], free=[{"CPU": 1}, {"CPU": 1}]), cpus=2)
    with pytest.raises(UsageError, match=r"4 CPUs and a GPU each .* has 16 CPUs and 0 GPUs"):
        room(Cluster([{"CPU": 16}]), cpus=4, provider="cuda")


def test_workers_that_never_begin_are_a_sentence_not_a_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_job, "_BEGINS_WITHIN_S", 0.0)
    store, plan, over = Store(str(tmp_path)), Plan(64, 32, 8, {}), threading.Event()
    job = SimpleNamespace(store=store, plan=plan, cpus=2)
    ray = SimpleNamespace(put=lambda model: model)

    def stream() -> ray_job._Stream:
        made = ray_job._Stream(ray, job, b"", [0, 1], 1)  # type: ignore[arg-type]
        monkeypatch.setattr(made, "_dataset", lambda: SimpleNamespace(iter_rows=lambda: iter(over.wait, True)))
        return made

    try:
        with pytest.raises(GlomedgeError, match=r"No worker of this Ray cluster has begun .* 2 free CPUs .*--resume"):
            stream().run(lambda done: None, lambda: False)
        store.write(plan.attempts_file(1), b"1")
        polled = iter([False] * 4)
        assert not stream().run(lambda done: None, lambda: next(polled, True))
    finally:
        over.set()


def test_what_failed_is_said_in_a_sentence() -> None:
    def said(error: BaseException) -> str:
        return str(ray_job._explained(error))

    caused = RuntimeError("traceback")
    caused.__cause__ = GlomedgeError("The model is of another kind. Export it again.")
    assert said(caused) == "The model is of another kind. Export it again."
    text = "The actor died: ...\nglomedge.errors.OutputError: A worker has another version.\n  more"
    assert said(RuntimeError(text)) == "A worker has another version."
    assert said(RuntimeError("\n\nobject lost\ntraceback")) == (
        "The Ray job failed: object lost. What is answered is kept: run again with --resume."
    )


def test_a_cluster_of_its_own_is_this_machines_and_asks_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_worker_niceness"):
        monkeypatch.setenv(name, "kept for monkeypatch, which puts back what was there")
        monkeypatch.delenv(name)
    ray_job._settle_own()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
