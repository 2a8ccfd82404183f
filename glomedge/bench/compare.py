"""``glomedge bench --compare OLD NEW``: what changed beyond noise between two records.

A figure with raw samples (latencies) counts as changed when three things agree: the Mann-Whitney test on the
samples (p < 0.01 after Holm's correction over all such figures), the 95% interval of the ratio of medians, whole
rounds resampled, excludes 1, and the ratio is at least ``min_change`` away from 1: a statistical difference of 1%
between two runs on one machine is usually its temperature.

A figure of a few rounds (throughput, end to end, cold start) cannot give a small p-value. It counts as changed when
the two sides do not overlap (with fewer than 5 values a side: and lie further apart than either is wide), besides
``min_change``; two samples from one distribution do that less than once in 40 comparisons
(tests/bench/test_bench_compare.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glomedge.bench.record import BenchRecord, Configuration
from glomedge.bench.statistics import Estimate, Rounds, holm, mann_whitney, ratio_of_medians

ALPHA = 0.01
MIN_CHANGE = 0.03
MANY = 20
"""Samples a side from which on the rank test decides (the normal approximation holds from about there)."""
FEW = 3

Verdict = Literal["faster", "slower", "within noise", "too few samples"]


@dataclass(frozen=True)
class Change:
    """One figure in both records: ``ratio`` is the new time over the old one (above 1: slower)."""

    configuration: str
    figure: str
    old: float
    new: float
    unit: str
    ratio: Estimate
    p_adjusted: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """All figures that both records have, and all other differences between the records."""

    changes: tuple[Change, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    environment: tuple[str, ...]
    parity: tuple[str, ...]


@dataclass(frozen=True)
class _Pair:
    configuration: str
    figure: str
    unit: str
    old: Rounds
    new: Rounds
    shown: tuple[float, float]


def compare(old: BenchRecord, new: BenchRecord, *, min_change: float = MIN_CHANGE) -> Comparison:
    """Compare two records figure by figure; configurations are matched by model name, precision and provider."""
    olds = {c.name: c for c in old.configurations}
    news = {c.name: c for c in new.configurations}
    pairs = [pair for name, c in olds.items() if name in news for pair in _pairs(c, news[name])]
    many = [pair for pair in pairs if _smaller(pair) >= MANY]
    adjusted = holm([mann_whitney(_flat(pair.old), _flat(pair.new))[1] for pair in many])
    p_values = {id(pair): p for pair, p in zip(many, adjusted, strict=True)}
    changes = tuple(_change(pair, p_values.get(id(pair)), min_change) for pair in pairs)
    return Comparison(
        changes,
        tuple(sorted(olds.keys() - news.keys())),
        tuple(sorted(news.keys() - olds.keys())),
        tuple(_environment_differences(old, new)),
        tuple(_parity_differences(olds, news)),
    )


def _change(pair: _Pair, p: float | None, min_change: float) -> Change:
    ratio = ratio_of_medians(pair.old, pair.new)
    if p is not None:
        differs = p < ALPHA and not ratio.low <= 1.0 <= ratio.high
    else:
        differs = _apart(_flat(pair.old), _flat(pair.new))
    verdict: Verdict = "within noise"
    if _smaller(pair) < FEW:
        verdict = "too few samples"
    elif differs and ratio.value > 1.0 + min_change:
        verdict = "slower"
    elif differs and ratio.value < 1.0 - min_change:
        verdict = "faster"
    return Change(pair.configuration, pair.figure, *pair.shown, pair.unit, ratio, p, verdict)


def _apart(old: list[float], new: list[float]) -> bool:
    """Whether two small samples do not overlap; with fewer than 5 values, and are further apart than either is wide.

    Two samples of 5 from one distribution do not overlap in 2 of 252 orders; of 3, in 2 of 20, hence the width.
    """
    gap = max(min(new) - max(old), min(old) - max(new))
    width = max(max(old) - min(old), max(new) - min(new)) if min(len(old), len(new)) < 5 else 0.0
    return gap > width


def _smaller(pair: _Pair) -> int:
    return min(len(_flat(pair.old)), len(_flat(pair.new)))


def _pairs(old: Configuration, new: Configuration) -> list[_Pair]:
    pairs = []
    new_latency = {item.batch_size: item for item in new.latency}
    for item in old.latency:
        other = new_latency.get(item.batch_size)
        if other is not None:
            shown = (item.percentiles.p50_ms, other.percentiles.p50_ms)
            pairs.append(
                _Pair(old.name, f"latency, batch {item.batch_size}", "ms", item.rounds_s, other.rounds_s, shown)
            )
    new_scenarios = {item.name: item for item in new.scenarios}
    for scenario in old.scenarios:
        match = new_scenarios.get(scenario.name)
        if scenario.name == "offline" and match is not None and scenario.rounds and match.rounds:
            # Rates become times, so that a ratio above 1 always means slower.
            seconds = [[[1.0 / rate] for rate in item.rounds] for item in (scenario, match)]
            shown = (scenario.value, match.value)
            pairs.append(_Pair(old.name, "offline", "crops/s", seconds[0], seconds[1], shown))
    if old.end_to_end is not None and new.end_to_end is not None:
        seconds = [[[r.wall_s / e.crops] for r in e.rounds] for e in (old.end_to_end, new.end_to_end)]
        shown = (old.end_to_end.crops_per_s.value, new.end_to_end.crops_per_s.value)
        pairs.append(_Pair(old.name, "end to end", "crops/s", seconds[0], seconds[1], shown))
    if old.cold_start is not None and new.cold_start is not None:
        starts = [[[s] for s in c.again_s] for c in (old.cold_start, new.cold_start)]
        if starts[0] and starts[1]:
            shown = (old.cold_start.median_s, new.cold_start.median_s)
            pairs.append(_Pair(old.name, "cold start", "s", starts[0], starts[1], shown))
    return pairs


def _environment_differences(old: BenchRecord, new: BenchRecord) -> list[str]:
    lines = []
    for label, keys in (("CPU", ("cpu", "model")), ("cores used", ("cpu", "cores_usable")), ("system", ("system",))):
        before, after = _at(old.environment, keys), _at(new.environment, keys)
        if before != after:
            lines.append(f"{label}: {before} -> {after}")
    if old.environment.get("gpus") != new.environment.get("gpus"):
        lines.append("the GPU, its driver or its power limit differs")
    versions_old: dict[str, str] = old.environment.get("versions", {})
    versions_new: dict[str, str] = new.environment.get("versions", {})
    lines += [
        f"{name}: {versions_old.get(name, 'absent')} -> {versions_new.get(name, 'absent')}"
        for name in sorted(versions_old.keys() | versions_new.keys())
        if versions_old.get(name) != versions_new.get(name)
    ]
    if old.crops != new.crops:
        lines.append(f"crops: {old.crops.crops} ({old.crops.source}) -> {new.crops.crops} ({new.crops.source})")
    return lines


def _parity_differences(olds: dict[str, Configuration], news: dict[str, Configuration]) -> list[str]:
    lines = []
    for name in sorted(olds.keys() & news.keys()):
        old, new = olds[name], news[name]
        if old.model_sha256 != new.model_sha256:
            lines.append(f"{name}: the model file differs")
        if old.parity is not None and new.parity is not None and old.parity.flips != new.parity.flips:
            lines.append(f"{name}: flips against fp32 {old.parity.flips} -> {new.parity.flips}")
    return lines


def _at(record: object, keys: tuple[str, ...]) -> object:
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _flat(rounds: Rounds) -> list[float]:
    return [value for r in rounds for value in r]
