"""MLPerf's scenarios on callables whose behaviour is known, with a simulated clock where time decides."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest

from glomedge.bench import scenarios
from glomedge.bench.scenarios import Clock, Images, probe_server, server
from glomedge.errors import UsageError

CROPS = np.zeros((3, 2, 2, 3), np.uint8)


class Simulated(Clock):
    """A clock that only moves when something takes time."""

    def __init__(self) -> None:
        self.time_s = 0.0
        super().__init__(now=lambda: self.time_s, sleep=self.advance)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        # At least one step of the float: a real clock never stands still either.
        self.time_s = max(self.time_s + seconds, math.nextafter(self.time_s, math.inf))


def _device(clock: Simulated, fixed_s: float, per_crop_s: float) -> tuple[scenarios.Infer, list[int]]:
    sizes: list[int] = []

    def infer(images: Images) -> None:
        sizes.append(len(images))
        clock.advance(fixed_s + per_crop_s * len(images))

    return infer, sizes


def test_an_idle_server_answers_each_query_in_its_service_time() -> None:
    clock = Simulated()
    infer, sizes = _device(clock, 0.001, 0.0)
    load = probe_server(
        infer, CROPS, rate_per_s=5.0, duration_s=100.0, bound_s=0.1, max_batch=8, concurrency=1, clock=clock
    )
    assert not load.aborted
    assert len(load.latencies_s) == pytest.approx(500, rel=0.15)
    assert np.median(load.latencies_s) == pytest.approx(0.001, abs=1e-6)
    assert sum(sizes) == len(load.latencies_s)


def test_queries_that_wait_are_answered_together_and_waiting_counts() -> None:
    clock = Simulated()
    infer, sizes = _device(clock, 0.1, 0.0)
    load = probe_server(
        infer, CROPS, rate_per_s=40.0, duration_s=50.0, bound_s=1.0, max_batch=8, concurrency=1, clock=clock
    )
    assert not load.aborted
    assert max(sizes) <= 8
    assert np.mean(sizes) > 3  # 4 arrive while one batch runs
    # A query waits for the running batch and then for its own: between one and about two service times.
    assert 0.1 <= np.median(load.latencies_s) <= 0.21


def test_an_overloaded_server_is_cut_short() -> None:
    clock = Simulated()
    infer, sizes = _device(clock, 0.1, 0.0)
    load = probe_server(
        infer, CROPS, rate_per_s=1000.0, duration_s=100.0, bound_s=0.2, max_batch=4, concurrency=1, clock=clock
    )
    assert load.aborted
    assert sum(sizes) < 1000


def test_server_finds_the_capacity_of_a_device_that_cannot_batch() -> None:
    """Service s = 10 ms one by one: an M/D/1 queue of load r, whose waiting time has a tail exp(-2 (1 - r) t / (r s)).

    (Kingman's heavy-traffic approximation.) p99 of waiting plus service under 100 ms then holds up to r = 0.80.
    """
    clock = Simulated()
    infer, _ = _device(clock, 0.0, 0.010)
    found = server(
        infer, CROPS, upper_per_s=200.0, duration_s=700.0, bound_ms=100.0, max_batch=1, concurrency=1, clock=clock
    )
    assert found.valid
    assert 72.0 < found.value < 84.0
    assert found.latency is not None
    assert found.latency.p99_ms <= 100.0
    assert found.details["queries"] > scenarios.MIN_QUERIES  # type: ignore[operator]


def test_server_says_when_no_rate_holds_the_bound() -> None:
    clock = Simulated()
    infer, _ = _device(clock, 0.5, 0.0)
    found = server(
        infer, CROPS, upper_per_s=10.0, duration_s=70.0, bound_ms=100.0, max_batch=4, concurrency=1, clock=clock
    )
    assert not found.valid
    assert found.value == 0.0


def test_single_stream_reports_p90_of_queries_of_one() -> None:
    sizes: list[int] = []

    def infer(images: Images) -> None:
        sizes.append(len(images))
        time.sleep(0.002)

    found = scenarios.single_stream(infer, CROPS, duration_s=0.1)
    assert set(sizes) == {1}
    assert found.latency is not None
    assert found.value == found.latency.p90_ms
    assert found.value >= 2.0


def test_offline_runs_that_many_threads_at_once() -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def infer(images: Images) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.005)
        with lock:
            inside -= 1

    found = scenarios.offline(infer, CROPS, duration_s=0.2, batch_size=7, concurrency=3)
    assert most == 3
    assert len(found.rounds) == scenarios.ROUNDS
    # Three callers of 7 crops, at most one batch each 5 ms.
    assert 0 < found.value <= 3 * 7 / 0.005


def test_latency_visits_every_size_in_every_round_and_repeats_crops() -> None:
    seen: list[tuple[int, int]] = []

    def infer(images: Images) -> None:
        seen.append((len(images), int(images[:, 0, 0, 0].max())))

    crops = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2).repeat(3, 3)
    found = scenarios.latency_by_batch(infer, crops, (1, 8), duration_s=0.02, rounds=4)
    assert [item.batch_size for item in found] == [1, 8]
    assert all(len(item.rounds_s) == 4 and all(item.rounds_s) for item in found)
    assert {size for size, _ in seen} == {1, 8}
    assert all(top == 2 for size, top in seen if size == 8)


def test_no_crop_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="--images"):
        scenarios.single_stream(lambda _: None, CROPS[:0], duration_s=0.1)
