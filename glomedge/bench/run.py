"""``glomedge bench``: the performance of models on this machine, measured well enough to choose hardware by it.

Every configuration (model x provider) runs in its own process (``glomedge.bench.worker``); its decisions are compared
with the fp32 model on the CPU on the same crops, so that a fast wrong answer is seen to be wrong.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glomedge.about import without_source
from glomedge.bench.answers import compare_answers, fp32_of
from glomedge.bench.jobs import run_job
from glomedge.bench.page import check_output, write
from glomedge.bench.plan import SCENARIOS, Settings, Target, plan
from glomedge.bench.record import (
    BenchRecord,
    CeilingShare,
    ColdStart,
    Configuration,
    Failure,
    ParityCheck,
    ScenarioName,
)
from glomedge.bench.worker import Job, Result
from glomedge.engine.options import EngineOptions
from glomedge.errors import GlomedgeError
from glomedge.model.file import ModelFile

if TYPE_CHECKING:
    from glomedge.bench.ceiling import Ceiling
    from glomedge.bench.crops import Crops

__all__ = [
    "SCENARIOS", "Settings", "Target", "check_output", "compare_answers", "plan", "run", "run_job",
    "write",
]  # fmt: skip


def run(
    settings: Settings, *, say: Callable[[str], None] = lambda _: None, command: str = "glomedge bench"
) -> BenchRecord:
    """Measure everything that was requested.

    A provider that cannot run, or a model that fails its self-test, becomes a ``Failure`` of the record and the
    others are still measured.

    Args:
        say: called with one line before each step.
        command: the command line, for the record.

    Raises:
        UsageError: settings or crops that cannot be carried out.
        ModelError: a model file that is missing or not ours.
    """
    from glomedge.bench import crops as cropping
    from glomedge.system.environment import environment

    settings.check()
    targets = plan(settings)
    with tempfile.TemporaryDirectory(prefix="glomedge-bench-") as name:
        scratch = Path(name)
        crops = cropping.find(settings.images, targets[0].file.path, scratch)
        say(f"crops: {crops.source}")
        source = cropping.describe(crops)
        bench = _Bench(settings, scratch, crops, say)
        configurations: list[Configuration] = []
        failures: list[Failure] = []
        for target in targets:
            try:
                configurations.append(bench.configuration(target))
            except GlomedgeError as error:
                say(f"{target.label}: {error}")
                failures.append(
                    Failure(
                        model=target.file.path.name,
                        provider_asked=target.engine.provider,
                        error=type(error).__name__,
                        message=without_source(str(error)),
                    )
                )
        return BenchRecord(
            created_utc=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            command=command,
            environment=environment(),
            settings=_settings(settings),
            crops=source,
            configurations=tuple(configurations),
            failures=tuple(failures),
            notes=tuple(map(without_source, bench.notes)),
        )


def _settings(settings: Settings) -> dict[str, Any]:
    """The settings for the record, without paths of this machine, because the record may be published."""
    return {
        "batch_sizes": list(settings.batch_sizes),
        "scenarios": list(settings.scenarios),
        "duration_s": settings.duration_s,
        "latency_bound_ms": settings.latency_bound_ms,
        "allow_fallback": settings.engine.allow_fallback,
        "strict_placement": settings.engine.strict_placement,
        "max_batch": settings.engine.max_batch,
        "fixed_batch": settings.engine.fixed_batch,
    }


class _Bench:
    """One run: the crops of each recipe, the reference answers and the ceilings are made once and shared."""

    def __init__(self, settings: Settings, scratch: Path, crops: Crops, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._scratch = scratch
        self._crops = crops
        self._say = say
        self._enhanced: dict[str, Path] = {}
        self._references: dict[tuple[str, str], tuple[str, list[float | None]] | None] = {}
        self._ceilings: dict[str, Ceiling | None] = {}
        self._jobs = 0
        self.notes: list[str] = []

    def configuration(self, target: Target) -> Configuration:
        """Measure one configuration. Raises the GlomedgeError of its process."""
        settings, file = self._settings, target.file
        self._say(f"{target.label}: latency, throughput, end to end ...")
        result = self._measure(target, settings.scenarios, settings.duration_s, end_to_end=settings.end_to_end)
        precision = str(result.runtime.get("precision", file.spec.precision))
        cold_start: ColdStart | None = None
        if settings.cold_start:
            from glomedge.bench.cold_start import measure as measure_cold_start

            self._say(f"{target.label}: cold start ...")
            cold_start = measure_cold_start(
                file.path, target.engine, self._crops.files[0], scratch=self._scratch / f"cold-{self._jobs}"
            )
        assert result.memory is not None
        asked = target.engine.provider
        fell_back = asked not in ("auto", result.provider)
        if asked != result.provider:
            why = "; ".join(str(note) for note in result.runtime.get("notes", ()))
            self.notes.append(f"{target.label}: ran on {result.provider}: {why}")
        return Configuration(
            model=file.path.name,
            model_sha256=file.sha256,
            precision=precision,
            target=file.spec.target,
            provider_asked=asked,
            provider=result.provider,
            fell_back=fell_back,
            runtime=result.runtime,
            cold_start=cold_start,
            latency=result.latency,
            scenarios=result.scenarios,
            end_to_end=result.end_to_end,
            memory=result.memory,
            energy=result.energy,
            ceiling=self._ceiling(file, precision, result),
            parity=self._parity(file, precision, result),
        )

    def _measure(
        self, target: Target, scenarios: tuple[ScenarioName, ...], duration_s: float, *, end_to_end: bool
    ) -> Result:
        scratch = self._job_folder()
        job = Job(
            model=target.file.path,
            engine=target.engine,
            batch_sizes=self._settings.batch_sizes,
            scenarios=scenarios,
            duration_s=duration_s,
            latency_bound_ms=self._settings.latency_bound_ms,
            crops=self._crops_for(target.file),
            files=self._crops.files if end_to_end else (),
            scratch=scratch,
        )
        return run_job(job, scratch)

    def _job_folder(self) -> Path:
        self._jobs += 1
        folder = self._scratch / f"job-{self._jobs}"
        folder.mkdir()
        return folder

    def _crops_for(self, file: ModelFile) -> Path:
        from glomedge.bench import crops as cropping

        key = file.spec.recipe.model_dump_json()
        if key not in self._enhanced:
            path = self._scratch / f"crops-{len(self._enhanced)}.npy"
            np.save(path, cropping.enhanced(self._crops, file.spec.recipe), allow_pickle=False)
            self._enhanced[key] = path
        return self._enhanced[key]

    def _reference(self, file: ModelFile) -> tuple[str, list[float | None]] | None:
        """Answers of the fp32 file of the same weights on the CPU; None if there is no such file."""
        key = (file.spec.weights_sha256, file.spec.recipe.model_dump_json())
        if key not in self._references:
            reference = fp32_of(file, self._settings.models)
            if reference is None:
                self.notes.append(
                    f"{file.path.name}: there is no fp32 file of the same weights next to it, so its decisions were "
                    "not checked."
                )
                self._references[key] = None
            else:
                self._say(f"reference answers: {reference.path.name} fp32 on cpu ...")
                scratch = self._job_folder()
                job = Job(
                    model=reference.path, engine=EngineOptions("cpu"), batch_sizes=(8,), scenarios=(),
                    duration_s=0.1, latency_bound_ms=1.0, crops=self._crops_for(file), files=(), scratch=scratch,
                    answers_only=True,
                )  # fmt: skip
                answers = run_job(job, scratch).probabilities
                self._references[key] = (f"{reference.path.name} fp32 cpu", list(answers))
        return self._references[key]

    def _parity(self, file: ModelFile, precision: str, result: Result) -> ParityCheck | None:
        try:
            reference = self._reference(file)
        except GlomedgeError as error:
            self.notes.append(f"No reference answers, so decisions were not checked: {error}")
            return None
        if reference is None:
            return None
        return compare_answers(reference[0], reference[1], list(result.probabilities), file.spec.threshold, precision)

    def _ceiling(self, file: ModelFile, precision: str, result: Result) -> CeilingShare | None:
        """Share of the matrix-product rate; only if the network ran on the CPU and its multiply-adds are known."""
        from glomedge.bench import ceiling

        if result.provider not in ("cpu", "openvino") or file.spec.multiply_adds == 0:
            return None
        if precision not in self._ceilings:
            self._say(f"ceiling: {precision} matrix product ...")
            self._ceilings[precision] = ceiling.measure_cpu(precision)
        measured = self._ceilings[precision]
        if measured is None:
            return None
        offline = next((s.value for s in result.scenarios if s.name == "offline"), 0.0)
        reached = max([offline, *(item.crops_per_s.value for item in result.latency)])
        network_gmac = file.spec.multiply_adds / 1e9
        limit = measured.rate_gmac_per_s / network_gmac
        return CeilingShare(
            precision=precision,
            rate_gmac_per_s=measured.rate_gmac_per_s,
            network_gmac=network_gmac,
            limit_crops_per_s=limit,
            reached_crops_per_s=reached,
            share=reached / limit,
            method=measured.method,
        )
