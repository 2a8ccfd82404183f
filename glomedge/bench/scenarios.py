"""MLPerf Inference's scenarios, for one callable that answers a batch.

Names and measures after Reddi et al., "MLPerf Inference Benchmark", ISCA 2020 (arXiv:1911.02549), section IV, and
the rules (https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc):

* single-stream: the next query is sent when the last one is answered; measure: 90th percentile of latency.
* offline: every sample is there at the start; measure: samples per second.
* server: queries of one sample arrive as a Poisson process; measure: the highest rate at which the 99th
  percentile of latency, counted from arrival, stays under a bound.

These are not MLPerf results: the runs last seconds rather than minutes, with as many queries as fit, and nobody
audited them. The number of queries is given with each figure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from glomedge.bench.record import Latency, Percentiles, Scenario
from glomedge.bench.statistics import Estimate, bootstrap_median, poisson_arrivals, summarise
from glomedge.errors import UsageError

Images = npt.NDArray[np.uint8]
Infer = Callable[[Images], object]
"""Answers uint8 ``[N, side, side, 3]``; must be callable from ``concurrency`` threads at once."""

ROUNDS = 5
MIN_QUERIES = 100
"""Minimum number of arrivals in a server probe: with fewer, one late query decides the 99th percentile."""
MAX_PROBE_S = 60.0


@dataclass
class Clock:
    """Time, replaceable in tests (a simulated clock makes the server scenario exact)."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Load:
    """One server probe: the offered rate, the latencies of its queries in seconds, and whether it was cut short."""

    rate_per_s: float
    latencies_s: npt.NDArray[np.float64] = field(repr=False)
    aborted: bool


def latency_by_batch(
    infer: Infer, images_nhwc: Images, batch_sizes: tuple[int, ...], *, duration_s: float, rounds: int = ROUNDS
) -> list[Latency]:
    """Latency of each batch size, one caller; ``duration_s`` is shared by all. Rounds visit every size in turn."""
    batches = {size: _batch(images_nhwc, size) for size in batch_sizes}
    for batch in batches.values():
        infer(batch)
    slot_s = duration_s / (rounds * len(batch_sizes))
    samples: dict[int, list[list[float]]] = {size: [] for size in batch_sizes}
    for _ in range(rounds):
        for size, batch in batches.items():
            samples[size].append(_repeat(infer, batch, slot_s))
    return [Latency.of(size, samples[size]) for size in batch_sizes]


def single_stream(infer: Infer, images_nhwc: Images, *, duration_s: float, rounds: int = ROUNDS) -> Scenario:
    """One query at a time; ``value`` is the p90 latency in milliseconds."""
    one = _batch(images_nhwc, 1)
    for _ in range(3):
        infer(one)
    samples = [_repeat(infer, one, duration_s / rounds) for _ in range(rounds)]
    summary = summarise([s for r in samples for s in r])
    return Scenario(
        name="single-stream",
        metric="p90 latency",
        value=summary.p90 * 1e3,
        unit="ms",
        valid=True,
        latency=Percentiles.of(summary),
        rounds=tuple(float(np.percentile(r, 90)) * 1e3 for r in samples),
        details={"queries": summary.n},
    )


def offline(
    infer: Infer, images_nhwc: Images, *, duration_s: float, batch_size: int, concurrency: int, rounds: int = ROUNDS
) -> Scenario:
    """All samples at once, ``concurrency`` threads each answering batches; ``value`` is samples per second."""
    batch = _batch(images_nhwc, batch_size)
    rates = []
    with ThreadPoolExecutor(concurrency, thread_name_prefix="offline") as pool:
        for _ in range(2):
            list(pool.map(infer, [batch] * concurrency))
        for _ in range(rounds):
            begin = time.perf_counter()
            until = begin + duration_s / rounds
            done = sum(pool.map(_until, [infer] * concurrency, [batch] * concurrency, [until] * concurrency))
            rates.append(done * batch_size / (time.perf_counter() - begin))
    estimate = (
        bootstrap_median([[rate] for rate in rates]) if len(rates) > 1 else Estimate(rates[0], rates[0], rates[0])
    )
    return Scenario(
        name="offline",
        metric="samples per second",
        value=estimate.value,
        unit="crops/s",
        valid=True,
        rounds=tuple(rates),
        details={"batch_size": batch_size, "threads": concurrency, "low": estimate.low, "high": estimate.high},
    )


def probe_server(
    infer: Infer,
    images_nhwc: Images,
    *,
    rate_per_s: float,
    duration_s: float,
    bound_s: float,
    max_batch: int,
    concurrency: int,
    seed: int = 0,
    clock: Clock | None = None,
) -> Load:  # as for server
    """Offer Poisson arrivals at one rate; latency counts from arrival, waiting included.

    Each of ``concurrency`` threads takes whatever has arrived, at most ``max_batch``, and answers it at once: no
    query waits for a batch to fill. A backlog older than ten bounds ends the probe (``aborted``): it is overloaded.
    """
    clock = clock or Clock()
    arrivals = poisson_arrivals(rate_per_s, duration_s, seed)
    batches = {size: _batch(images_nhwc, size) for size in range(1, max_batch + 1)}
    latencies = np.full(arrivals.size, np.inf)
    lock = threading.Lock()
    position = 0
    aborted = False
    start = clock.now() + 0.02  # the threads are up before the first arrival

    def serve() -> None:
        nonlocal position, aborted
        while True:
            with lock:
                if position >= arrivals.size or aborted:
                    return
                now = clock.now() - start
                waited = now - arrivals[position]
                if waited > 10 * bound_s:
                    aborted = True
                    return
                first = position
                if waited >= 0:
                    position = min(first + max_batch, int(np.searchsorted(arrivals, now, side="right")))
                taken = position - first
            if taken == 0:
                clock.sleep(min(-waited, 0.05))
                continue
            infer(batches[taken])
            latencies[first : first + taken] = clock.now() - start - arrivals[first : first + taken]

    if concurrency == 1:
        serve()
    else:
        with ThreadPoolExecutor(concurrency, thread_name_prefix="server") as pool:
            for future in [pool.submit(serve) for _ in range(concurrency)]:
                future.result()
    return Load(rate_per_s, latencies, aborted)


def server(
    infer: Infer,
    images_nhwc: Images,
    *,
    upper_per_s: float,
    duration_s: float,
    bound_ms: float,
    max_batch: int,
    concurrency: int,
    probes: int = 7,
    clock: Clock | None = None,
) -> Scenario:  # MLPerf's settings of this scenario, one keyword each: more of them than usual
    """Highest Poisson rate with p99 under ``bound_ms``, by bisection below ``upper_per_s`` (the offline rate).

    ``duration_s`` is shared by the probes, but each lasts until ``MIN_QUERIES`` are expected (``MAX_PROBE_S`` at
    most). ``valid`` is False when even the lowest rate tried misses the bound.
    """
    bound_s = bound_ms / 1e3
    low, high = 0.0, upper_per_s
    best: Load | None = None
    tried: list[str] = []
    for index in range(probes):
        # Offline throughput itself is tried first: a device that batches well can hold it.
        rate = high if index == 0 else (low + high) / 2
        probe_s = min(MAX_PROBE_S, max(duration_s / probes, MIN_QUERIES / rate))
        load = probe_server(
            infer, images_nhwc, rate_per_s=rate, duration_s=probe_s, bound_s=bound_s,
            max_batch=max_batch, concurrency=concurrency, seed=index, clock=clock,
        )  # fmt: skip
        p99 = float(np.percentile(load.latencies_s, 99)) if not load.aborted else float("inf")
        tried.append(f"{rate:.4g}/s p99 {p99 * 1e3:.4g} ms")
        if p99 <= bound_s:
            low, best = rate, load
            if index == 0:
                break
        else:
            high = rate
    details: dict[str, float | int | str] = {
        "bound_ms": bound_ms, "max_batch": max_batch, "threads": concurrency, "probes": "; ".join(tried),
        "queries": int(best.latencies_s.size) if best else 0, "not_above_per_s": high,
    }  # fmt: skip
    return Scenario(
        name="server",
        metric=f"highest Poisson rate with p99 <= {bound_ms:g} ms",
        value=best.rate_per_s if best else 0.0,
        unit="queries/s",
        valid=best is not None,
        latency=Percentiles.of(summarise(best.latencies_s)) if best else None,
        details=details,
    )


def _repeat(infer: Infer, batch: Images, slot_s: float) -> list[float]:
    samples = []
    until = time.perf_counter() + slot_s
    while True:
        begin = time.perf_counter()
        infer(batch)
        end = time.perf_counter()
        samples.append(end - begin)
        if end >= until:
            return samples


def _until(infer: Infer, batch: Images, until: float) -> int:
    done = 0
    while done == 0 or time.perf_counter() < until:
        infer(batch)
        done += 1
    return done


def _batch(images_nhwc: Images, size: int) -> Images:
    if len(images_nhwc) == 0:
        raise UsageError("There is no readable crop to measure with. Give a folder of crops with --images DIR.")
    return np.ascontiguousarray(images_nhwc[np.arange(size) % len(images_nhwc)])
