"""``glomedge infer-ray`` on Ray itself: one job on a cluster of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import weakref
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
from glomedge.cluster.worker import Done
from glomedge.engine.options import EngineOptions
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
        match=r"infer-ray needs the package 'ray', which is not installed here\. Install it with: .*\[ray\]",
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


class Handle(SimpleNamespace):
    """Of a worker; unlike a SimpleNamespace it can be watched."""


class Handed:
    """What a driver asks of Ray, here; parts are done in the order in which the test says so, by number of worker.

    Attributes:
        parts: of each worker, those that it has.
        alive: the workers that the driver still holds.
    """

    def __init__(self, *, come: bool = True) -> None:
        self.come = come
        self.parts: dict[int, list[int]] = {}
        self.alive = weakref.WeakValueDictionary[int, Handle]()
        self.ready = list[object]()
        self.gives: dict[object, Any] = {}

    def put(self, data: bytes) -> bytes:
        return data

    def remote(self, kind: type) -> SimpleNamespace:
        assert kind is ray_job.RayWorker
        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=self._worker))

    def _worker(self, job: object, model: bytes) -> Handle:
        number = len(self.parts)
        self.parts[number] = []

        def answer(part: int) -> object:
            self.parts[number].append(part)
            reference = object()
            self.gives[reference] = Done(part, 16, {"worker": number})
            return reference

        def begin() -> object:
            reference = object()
            self.gives[reference] = None
            if self.come:
                self.ready.append(reference)
            return reference

        worker = Handle(ready=SimpleNamespace(remote=begin), answer=SimpleNamespace(remote=answer))
        self.alive[number] = worker
        return worker

    def done(self, worker: int) -> None:
        """The first of its parts is done."""
        part = self.parts[worker].pop(0)
        self.ready.append(next(reference for reference, said in self.gives.items() if said and said.part == part))

    def wait(self, references: list[object], timeout: float) -> tuple[list[object], list[object]]:
        came = [self.ready.pop(0)] if self.ready else []
        assert set(came) <= set(references)
        return came, [each for each in references if each not in came]

    def get(self, reference: object) -> Any:
        return self.gives.pop(reference)


def streamed(ray: Handed, store: Store, plan: Plan, workers: int) -> ray_job._Stream:
    job = SimpleNamespace(store=store, plan=plan, cpus=2, engine=EngineOptions("cpu"))
    return ray_job._Stream(ray, job, b"", range(plan.parts), workers)  # type: ignore[arg-type]


def test_every_worker_has_the_next_part_and_the_last_ones_are_shared(tmp_path: Path) -> None:
    ray = Handed()
    stream = streamed(ray, Store(str(tmp_path)), Plan(7 * 16, 16, 8, {}), 2)
    answered, seen = list[int](), list[dict[int, list[int]]]()
    script = iter((0, 0, 1, 1, 0, 1, 0))

    def stop() -> bool:
        if not ray.ready:
            seen.append({number: list(parts) for number, parts in ray.parts.items()})
            ray.done(next(script))
        return False

    assert stream.run(lambda done: answered.append(done.part), stop)
    assert sorted(answered) == [0, 1, 2, 3, 4, 5, 6]
    assert seen == [
        {0: [0, 1], 1: [2, 3]},
        {0: [1, 4], 1: [2, 3]},
        {0: [4, 5], 1: [2, 3]},
        {0: [4, 5], 1: [3]},  # the last part is not for a worker that has one
        {0: [4, 5], 1: [6]},
        {0: [5], 1: [6]},
        {0: [5], 1: []},
    ]


def test_a_worker_without_parts_is_let_go(tmp_path: Path) -> None:
    """Where a node has left for good, its worker can only begin again in the place of another."""
    ray, alive = Handed(), list[list[int]]()
    stream = streamed(ray, Store(str(tmp_path)), Plan(2 * 16, 16, 8, {}), 2)
    script = iter((0, 1))

    def stop() -> bool:
        if not ray.ready:
            alive.append(sorted(ray.alive))
            ray.done(next(script))
        return False

    assert stream.run(lambda done: None, stop)
    assert alive == [[0, 1], [1]]


def test_workers_that_never_begin_are_a_sentence_not_a_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_job, "_BEGINS_WITHIN_S", 0.0)
    store, plan = Store(str(tmp_path)), Plan(64, 32, 8, {})
    with pytest.raises(GlomedgeError, match=r"No worker of this Ray cluster has begun .* 2 free CPUs .*--resume"):
        streamed(Handed(come=False), store, plan, 1).run(lambda done: None, lambda: False)
    store.write(plan.attempts_file(1), b"1")
    polled = iter([False] * 4)
    assert not streamed(Handed(come=False), store, plan, 1).run(lambda done: None, lambda: next(polled, True))


def test_what_ray_prints_becomes_notes_without_tracebacks() -> None:
    notes = list[str]()
    says = ray_job._RaySays(notes.append)
    for _ in range(2):
        print("\x1b[33m(raylet)\x1b[0m Task failed. It will be retried. Error: Traceback\n  File", file=says)
    print("(raylet) The node has been marked dead.\nPossible reasons", file=says)
    assert notes == [
        "Ray says: (raylet) Task failed. It will be retried.",
        "Ray says: (raylet) The node has been marked dead.",
    ]


def test_what_failed_is_said_in_a_sentence() -> None:
    def said(error: BaseException) -> str:
        return str(ray_job._explained(error))

    caused = RuntimeError("traceback")
    caused.__cause__ = GlomedgeError("The model is of another kind. Export it again.")
    assert said(caused) == "The model is of another kind. Export it again."
    copied = GlomedgeError("ray::RayWorker.answer()\n  traceback")  # as Ray raises it again in the driver
    copied.cause = caused.__cause__  # type: ignore[attr-defined]
    assert said(copied) == "The model is of another kind. Export it again."
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
