"""``glomedge bench``: what this machine does with a model, measured so that one may choose hardware by it.

Every configuration (model x provider) runs in a process of its own (``benchmarking.measure``); its decisions are held
against the fp32 model on the CPU on the same crops, so that a fast wrong answer is seen to be wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glomedge.benchmarking.record import (
    BenchRecord,
    CeilingShare,
    ColdStart,
    Configuration,
    Failure,
    ParityCheck,
    ScenarioName,
)
from glomedge.errors import (
    EngineError,
    GlomedgeError,
    ModelError,
    OutputError,
    ProviderUnavailableError,
    SelfTestError,
    UsageError,
)
from glomedge.modelfile import ModelFile, read_model_file

if TYPE_CHECKING:
    from glomedge.benchmarking.ceiling import Ceiling
    from glomedge.benchmarking.crops import Crops
    from glomedge.benchmarking.measure import Result

DEFAULT_MODEL = Path("artifacts/model.onnx")
SCENARIOS: tuple[ScenarioName, ...] = ("single-stream", "offline", "server")
PRECISIONS = ("fp32", "fp16", "int8", "bf16")

_REPORTED: dict[str, type[GlomedgeError]] = {
    kind.__name__: kind
    for kind in (EngineError, ModelError, OutputError, ProviderUnavailableError, SelfTestError, UsageError)
}
"""Errors that a measuring process reports by name and that are raised again here."""

TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2, "bf16": 5e-2, "int8": 0.25}
"""Largest difference of probability from fp32 on the CPU that passes, by precision. Another kernel's summation
order moves fp32 by 1e-6; for the others the number of flips is the judge and this only catches a broken run."""
MAX_FLIP_FRACTION = {"fp32": 0.0, "fp16": 0.01, "bf16": 0.02, "int8": 0.05}
"""Flips that pass, as a fraction of the crops; export's own gate is stricter and has more crops."""


@dataclass(frozen=True)
class Settings:
    """What to measure; see ``glomedge bench --help``."""

    models: tuple[Path, ...] = (DEFAULT_MODEL,)
    providers: tuple[str, ...] = ("auto",)
    precisions: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    scenarios: tuple[ScenarioName, ...] = ("single-stream", "offline")
    duration_s: float = 5.0
    latency_bound_ms: float = 200.0
    images: Path | None = None
    allow_fallback: bool = False
    cold_start: bool = True
    end_to_end: bool = True

    def check(self) -> None:
        """Raises UsageError on a value that cannot be carried out."""
        if not self.batch_sizes or min(self.batch_sizes) < 1 or max(self.batch_sizes) > 1024:
            raise UsageError("--batch-size takes sizes from 1 to 1024, such as 1,8,32.")
        if not 0.1 <= self.duration_s <= 3600:
            raise UsageError("--duration takes seconds from 0.1 to 3600.")
        if self.latency_bound_ms <= 0:
            raise UsageError("--latency-bound-ms must be positive, such as 200.")
        for name, values, allowed in (
            ("--scenario", self.scenarios, SCENARIOS),
            ("--precision", self.precisions, PRECISIONS),
        ):
            for value in values:
                if value not in allowed:
                    raise UsageError(f"{name} {value!r} is not one of {', '.join(allowed)}.")


@dataclass(frozen=True)
class Target:
    """One configuration to measure."""

    file: ModelFile
    provider: str
    bf16: bool = False

    @property
    def label(self) -> str:
        """For progress messages."""
        return f"{self.file.path.name} on {self.provider}" + (" in bf16" if self.bf16 else "")


def run(
    settings: Settings, *, say: Callable[[str], None] = lambda _: None, command: str = "glomedge bench"
) -> BenchRecord:
    """Measure everything asked for.

    A provider that cannot run, or a model that fails its self-test, becomes a ``Failure`` of the record and the
    others are still measured.

    Args:
        say: called with one line before each step.
        command: how this run was asked for, for the record.

    Raises:
        UsageError: settings or crops that cannot be carried out.
        ModelError: a model file that is missing or not ours.
    """
    from glomedge.benchmarking import crops as cropping
    from glomedge.benchmarking.environment import environment

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
                        provider_asked=target.provider,
                        error=type(error).__name__,
                        message=str(error),
                    )
                )
        return BenchRecord(
            created_utc=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            command=command,
            environment=environment(),
            settings={
                "batch_sizes": list(settings.batch_sizes),
                "scenarios": list(settings.scenarios),
                "duration_s": settings.duration_s,
                "latency_bound_ms": settings.latency_bound_ms,
                "allow_fallback": settings.allow_fallback,
            },
            crops=source,
            configurations=tuple(configurations),
            failures=tuple(failures),
            notes=tuple(bench.notes),
        )


def plan(settings: Settings) -> list[Target]:
    """Models x providers; ``--precision`` picks among the files beside the models, ``bf16`` the fp32 one's.

    Raises:
        ModelError: a file is missing or not ours, or no file has a precision that was asked for.
    """
    files = [read_model_file(path) for path in dict.fromkeys(settings.models)]
    if not settings.precisions:
        return [Target(file, provider) for file in files for provider in settings.providers]
    beside: dict[Path, ModelFile] = {file.path.resolve(): file for file in files}
    for folder in dict.fromkeys(file.path.parent for file in files):
        for path in sorted(folder.glob("*.onnx")):
            if path.resolve() not in beside:
                try:
                    beside[path.resolve()] = read_model_file(path)
                except ModelError:
                    continue  # a foreign or damaged file that nobody named
    targets = []
    for precision in dict.fromkeys(settings.precisions):
        wanted = "fp32" if precision == "bf16" else precision
        chosen = [file for file in beside.values() if file.spec.precision == wanted]
        if not chosen:
            raise ModelError(
                f"There is no {precision} model beside {files[0].path}. Make one with: "
                f"glomedge export --precision {wanted}, or name it with --model."
            )
        targets += [
            Target(file, provider, bf16=precision == "bf16") for file in chosen for provider in settings.providers
        ]
    return targets


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
        """Measure one. Raises the GlomedgeError that its process met."""
        settings, file = self._settings, target.file
        self._say(f"{target.label}: latency, throughput, end to end ...")
        result = self._measure(target, settings.scenarios, settings.duration_s, end_to_end=settings.end_to_end)
        precision = str(result.runtime.get("precision", file.spec.precision))
        cold_start: ColdStart | None = None
        if settings.cold_start:
            from glomedge.benchmarking import coldstart

            self._say(f"{target.label}: cold start ...")
            cold_start = coldstart.measure(
                file.path, target.provider, self._crops.files[0], scratch=self._scratch / f"cold-{self._jobs}",
                allow_fallback=settings.allow_fallback, bf16=target.bf16,
            )  # fmt: skip
        assert result.memory is not None
        fell_back = target.provider not in ("auto", result.provider)
        return Configuration(
            model=file.path.name,
            model_sha256=file.sha256,
            precision=precision,
            target=file.spec.target,
            provider_asked=target.provider,
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
        from glomedge.benchmarking.measure import Job

        self._jobs += 1
        scratch = self._scratch / f"job-{self._jobs}"
        scratch.mkdir()
        job = Job(
            model=target.file.path,
            provider=target.provider,
            allow_fallback=self._settings.allow_fallback,
            batch_sizes=self._settings.batch_sizes,
            scenarios=scenarios,
            duration_s=duration_s,
            latency_bound_ms=self._settings.latency_bound_ms,
            crops=self._crops_for(target.file),
            files=self._crops.files if end_to_end else (),
            scratch=scratch,
            bf16=target.bf16,
        )
        return run_job(job, scratch)

    def _crops_for(self, file: ModelFile) -> Path:
        from glomedge.benchmarking import crops as cropping

        key = file.spec.recipe.model_dump_json()
        if key not in self._enhanced:
            path = self._scratch / f"crops-{len(self._enhanced)}.npy"
            np.save(path, cropping.enhanced(self._crops, file.spec.recipe), allow_pickle=False)
            self._enhanced[key] = path
        return self._enhanced[key]

    def _reference(self, file: ModelFile) -> tuple[str, list[float | None]] | None:
        """Answers of the fp32 file of the same weights on the CPU; None where there is no such file."""
        key = (file.spec.weights_sha256, file.spec.recipe.model_dump_json())
        if key not in self._references:
            reference = _fp32_of(file, self._settings.models)
            if reference is None:
                self.notes.append(
                    f"{file.path.name}: no fp32 file of the same weights beside it, so its decisions were not checked."
                )
                self._references[key] = None
            else:
                from glomedge.benchmarking.measure import Job

                self._say(f"reference answers: {reference.path.name} fp32 on cpu ...")
                self._jobs += 1
                scratch = self._scratch / f"job-{self._jobs}"
                scratch.mkdir()
                job = Job(
                    model=reference.path, provider="cpu", allow_fallback=False, batch_sizes=(8,), scenarios=(),
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
        """Share of the matrix-product rate; only where the network ran on the CPU and its multiply-adds are known."""
        from glomedge.benchmarking import ceiling

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


def compare_answers(
    reference_name: str,
    reference: Sequence[float | None],
    answers: Sequence[float | None],
    threshold: float,
    precision: str,
) -> ParityCheck:
    """Flips and the largest difference of two runs on the same crops; None stands for NaN or Inf and never passes."""
    pairs = [(a, b) for a, b in zip(reference, answers, strict=True) if a is not None and b is not None]
    nonfinite = sum(b is None for b in answers)
    flips = sum((a >= threshold) != (b >= threshold) for a, b in pairs)
    worst = max((abs(a - b) for a, b in pairs), default=0.0)
    allowed = int(MAX_FLIP_FRACTION.get(precision, 0.0) * len(answers))
    return ParityCheck(
        reference=reference_name,
        crops=len(answers),
        flips=flips,
        max_probability_difference=worst,
        nonfinite=nonfinite,
        tolerance_flips=allowed,
        passed=nonfinite == 0 and bool(pairs) and flips <= allowed and worst <= TOLERANCE.get(precision, 1e-4),
    )


def run_job(job: object, scratch: Path) -> Result:
    """Run one measuring process. Raises the GlomedgeError it reports, EngineError when it dies."""
    from glomedge.benchmarking.coldstart import child_environment
    from glomedge.benchmarking.measure import Job, Result

    assert isinstance(job, Job)
    job_path, result_path = scratch / "job.json", scratch / "result.json"
    job_path.write_text(job.model_dump_json(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "glomedge.benchmarking.measure", str(job_path), str(result_path)],
        capture_output=True, text=True, errors="replace", check=False,
        env=child_environment(),
    )  # fmt: skip
    if not result_path.is_file():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise EngineError(
            f"Measuring {job.model.name} on {job.provider} ended with {how}: {last}. Run: glomedge doctor"
        )
    result = Result.model_validate_json(result_path.read_bytes())
    if result.error is not None:
        raise _REPORTED.get(result.error, GlomedgeError)(result.message)
    return result


def _fp32_of(file: ModelFile, named: Sequence[Path]) -> ModelFile | None:
    """The fp32 file with the same weights: itself, one that was named, or one in the same folder."""
    if file.spec.precision == "fp32":
        return file
    for path in [*named, *sorted(file.path.parent.glob("*.onnx"))]:
        try:
            other = read_model_file(path)
        except ModelError:
            continue
        if other.spec.precision == "fp32" and other.spec.weights_sha256 == file.spec.weights_sha256:
            return other
    return None


def check_output(folder: Path) -> None:
    """Make the output folder before anything is measured. Raises OutputError where it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror}). Name another folder with --output."
        ) from error


def write(record: BenchRecord, folder: Path) -> list[Path]:
    """Write ``bench.json`` and ``bench.html`` by temporary file and rename. Raises OutputError."""
    from glomedge.benchmarking import benchreport

    check_output(folder)
    written = []
    for name, text in (
        ("bench.json", record.model_dump_json(indent=1) + "\n"),
        ("bench.html", benchreport.html(record)),
    ):
        try:
            with tempfile.NamedTemporaryFile("w", dir=folder, encoding="utf-8", delete=False) as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
            Path(handle.name).chmod(0o644)
            Path(handle.name).replace(folder / name)
        except OSError as error:
            Path(handle.name).unlink(missing_ok=True)
            raise OutputError(f"{folder / name} cannot be written ({error.strerror}). Make room and repeat.") from error
        written.append(folder / name)
    return written


__all__ = ["SCENARIOS", "Settings", "Target", "check_output", "compare_answers", "plan", "run", "write"]
