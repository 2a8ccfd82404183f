"""Examine this machine: what can run a model here, why the rest cannot, and what to do about it.

Everything is tried rather than looked up: each usable provider loads the model, runs its golden self-test and is timed
for about a second; the recommendation is the fastest of those that passed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from glomedge.about import RESEARCH_USE_NOTICE, __version__
from glomedge.engine.options import EngineOptions
from glomedge.errors import GlomedgeError, ModelError
from glomedge.system import cpu as hardware
from glomedge.system import cuda, libraries
from glomedge.system import gpu as gpus
from glomedge.system.gpu import Gpu
from glomedge.system.jetson import find_jetson
from glomedge.system.kernels import kernels_in
from glomedge.system.telemetry import Silenced, telemetry

_PACKAGES = (
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "pillow",
    "pydantic",
    *libraries.ONNXRUNTIME_PACKAGES,
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "onnxruntime-ep-openvino",
    "openvino",
    "tensorrt-rtx",
    "tensorrt-cu13",
    "kornia-rs",
    "pyarrow",
    "tensorflow",
)
_BATCHES = (1, 4, 16)
_TIMED_S = 1.0


@dataclass(frozen=True)
class Speed:
    """Throughput of one batch size, measured for about a second; enough to choose a provider, not a benchmark."""

    batch: int
    crops_per_s: float


@dataclass(frozen=True)
class ProviderReport:
    """One provider on this machine.

    Attributes:
        name: what ``--provider`` takes.
        usable: whether it can run here (with a model: loaded it and passed its self-test).
        reason: why not, and what to do; empty where usable.
        self_test: ``passed``, ``failed`` or ``not run``.
        load_s: seconds to load the model and test it; None where not tried.
        speeds: measured throughput.
        versions: of the libraries that took part.
        notes: further messages.
    """

    name: str
    usable: bool
    reason: str = ""
    self_test: str = "not run"
    load_s: float | None = None
    speeds: tuple[Speed, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Speed | None:
        """Its fastest batch; among batches within 3% of it the smallest, to save memory."""
        if not self.speeds:
            return None
        top = max(speed.crops_per_s for speed in self.speeds)
        return next(speed for speed in self.speeds if speed.crops_per_s >= 0.97 * top)


@dataclass(frozen=True)
class Recommendation:
    """What to use here: provider, the precision to export, the batch size, and why."""

    provider: str
    precision: str
    batch_size: int
    why: str


@dataclass(frozen=True)
class ModelReport:
    """The model that was examined; ``problem`` says why it cannot be used, empty when it can."""

    path: str
    problem: str = ""
    sha256: str = ""
    precision: str = ""
    target: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything ``glomedge doctor`` found. ``healthy`` is False when nothing can run.

    Some of it in particular:
        gpus: every GPU of the machine; ``session_gpu`` is the one that sessions run on, None where CUDA counts none.
        driver_cuda: the newest CUDA that the driver runs, such as ``12.8``; empty without a driver.
        tensorrt: each TensorRT that pip brought or that lies where libraries usually lie, in words.
        gpu_notes: what is particular about GPU and driver here, in sentences.
        jetson: the board, where this is an NVIDIA Jetson; empty elsewhere.
    """

    notice: str
    glomedge: str
    python: str
    system: str
    cpu: str
    cpu_features: tuple[str, ...]
    usable_cpus: int
    gpus: tuple[gpus.Gpu, ...]
    session_gpu: Gpu | None
    driver: str
    driver_cuda: str
    gpu_problem: str
    gpu_notes: tuple[str, ...]
    tensorrt: tuple[str, ...]
    jetson: str
    packages: dict[str, str]
    problems: tuple[str, ...]
    model: ModelReport | None
    providers: tuple[ProviderReport, ...]
    recommendation: Recommendation | None
    healthy: bool
    telemetry: tuple[Silenced, ...]

    def to_json_object(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers."""
        return asdict(self)


def diagnose(model: Path | None = None, options: EngineOptions = EngineOptions()) -> Diagnosis:  # noqa: B008 - frozen
    """Examine this machine, with a model where there is one. Never raises for what it finds.

    Args:
        model: to load on each provider that can run here.
        options: to load it with. With provider ``auto`` every provider is examined, otherwise that one only; each is
            examined by itself, so ``allow_fallback`` has no part in it.

    Raises:
        UsageError: an option out of range, or no such provider.
    """
    from glomedge.engine import providers

    options.check()
    examined = providers.PROVIDERS.values() if options.provider == "auto" else [providers.named(options.provider)]
    found = gpus.find_gpus()
    problems: list[str] = []
    runtimes = libraries.onnxruntime_packages()
    if len(runtimes) > 1:
        problems.append(providers.both_installed(runtimes))
    model_report = None if model is None else examine_model(model)
    if model_report is not None and model_report.problem:
        problems.append(model_report.problem)
        model = None
    reports = tuple(_examine(provider, model, options) for provider in examined)
    broken_model = model_report is not None and bool(model_report.problem)
    device, runs = gpus.session_gpu(), gpus.driver_cuda()
    return Diagnosis(
        notice=RESEARCH_USE_NOTICE,
        glomedge=__version__,
        python=hardware.python_version(),
        system=hardware.operating_system(),
        cpu=hardware.cpu_name(),
        cpu_features=hardware.cpu_features(),
        usable_cpus=hardware.usable_cpus(),
        gpus=found.devices,
        session_gpu=device,
        driver=found.driver,
        driver_cuda=f"{runs[0]}.{runs[1]}" if runs else "",
        gpu_problem=found.problem,
        gpu_notes=gpu_notes(found, device, reports),
        tensorrt=tuple(map(str, cuda.installed_tensorrt())),
        jetson=str(find_jetson() or ""),
        packages={package.name: package.version for package in libraries.installed(*_PACKAGES)},
        problems=tuple(problems),
        model=model_report,
        providers=reports,
        recommendation=recommend(reports, model_report),
        healthy=any(report.usable for report in reports) and not broken_model,
        telemetry=telemetry(),
    )


def gpu_notes(found: gpus.Gpus, device: gpus.Gpu | None, reports: tuple[ProviderReport, ...]) -> tuple[str, ...]:
    """What the user must know of GPU and driver beyond their names.

    Args:
        found: every GPU of the machine.
        device: the one that sessions run on.
        reports: of the providers that were examined.
    """
    from glomedge.engine.providers import PROVIDERS

    notes = []
    if device is not None and "MIG" in device.name.split():
        notes.append(
            f"Sessions run on a slice of the GPU (MIG): {device.name}, {device.memory_bytes / 2**30:.1f} GiB. Engines "
            "built on it are for slices of this size only."
        )
    elif device is not None and len(found.devices) > 1:
        notes.append(f"Sessions run on {device.name}, which CUDA counts first (choose with CUDA_VISIBLE_DEVICES).")
    if found.devices and not found.nvml:
        notes.append(
            "NVML (libnvidia-ml.so.1) does not answer here, so that energy and GPU memory are not recorded. In a "
            "container: start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility."
        )
    on_gpu = [report for report in reports if PROVIDERS[report.name].gpu]
    if device is not None and on_gpu and not any(report.usable for report in on_gpu):
        notes.append(f"{device.name} is not used: no provider for it can run here. The reasons are listed.")
    return tuple(notes)


def examine_model(path: Path) -> ModelReport:
    """Whether a file is intact and from glomedge, and its graph matches its spec."""
    from glomedge.model.file import read_model_file
    from glomedge.model.graph import check_graph

    try:
        file = read_model_file(path)
        check_graph(path, file.spec)
    except ModelError as error:
        return ModelReport(str(path), problem=str(error))
    return ModelReport(str(path), sha256=file.sha256, precision=file.spec.precision, target=file.spec.target)


def _examine(provider: Any, model: Path | None, options: EngineOptions) -> ProviderReport:
    from glomedge.engine.loading import open_engine, require_bf16
    from glomedge.engine.providers import batch_of
    from glomedge.errors import SelfTestError

    reason = provider.unusable()
    if reason is None and model is None:
        # With a model, trying is a better answer.
        reason = no_kernels(provider.name)
    if reason is not None:
        return ProviderReport(provider.name, usable=False, reason=reason)
    if model is None:
        return ProviderReport(provider.name, usable=True)
    options = replace(options, provider=provider.name, allow_fallback=False)
    # The batch sizes of infer: an engine that is built here is the one that infer finds in the cache.
    options = replace(options, batch_size=batch_of(options, None))
    start = perf_counter()
    try:
        with open_engine(model, options) as engine:
            require_bf16(engine, options)
            load_s = perf_counter() - start
            speeds = tuple(Speed(batch, _crops_per_s(engine, batch)) for batch in _batches(provider.gpu, options))
            runtime = engine.runtime
    except SelfTestError as error:
        return ProviderReport(provider.name, usable=False, reason=str(error), self_test="failed")
    except GlomedgeError as error:
        return ProviderReport(provider.name, usable=False, reason=str(error))
    return ProviderReport(
        provider.name,
        usable=True,
        self_test="passed",
        load_s=load_s,
        speeds=speeds,
        versions=dict(runtime.versions),
        notes=runtime.notes,
    )


def no_kernels(name: str) -> str | None:
    """Why the CUDA provider would load and then fail on this GPU: it was compiled for others. None where it was not."""
    from glomedge.engine.backends.gpu_memory import CUDA_LIBRARY
    from glomedge.engine.backends.nvidia_machine import jetson_advice

    device, folder = gpus.session_gpu(), libraries.module_folder("onnxruntime")
    if name != "cuda" or device is None or folder is None:
        return None
    major, minor = (int(part) for part in device.compute_capability.split("."))
    kernels = kernels_in(folder / "capi" / CUDA_LIBRARY)
    if kernels.run_on((major, minor)):
        return None
    made = ", ".join(f"{a}.{b}" for a, b in sorted(kernels.cubin | kernels.ptx))
    return (
        f"cuda: this onnxruntime has kernels for compute {made}, and none for {device.name} (compute {major}.{minor}): "
        "it would fail at the first run. "
        + (jetson_advice() or "Use --provider tensorrt, which brings its own, or an onnxruntime built for this GPU")
    )


def _batches(gpu: bool, options: EngineOptions) -> list[int]:
    """What to time: some usual sizes and the one asked for; on a GPU that one, the only one it runs."""
    asked = options.batch_size or 1
    if gpu or options.fixed_batch:
        return [asked]
    sizes = {*_BATCHES, asked}
    return sorted(size for size in sizes if size <= (options.max_batch or size))


def _crops_per_s(engine: Any, batch: int) -> float:
    import numpy as np

    pixels = engine.spec.golden.pixels()
    images_nhwc = np.broadcast_to(pixels, (batch, *pixels.shape)).copy()
    engine.infer(images_nhwc)  # the first run of a shape allocates and chooses kernels
    runs, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < _TIMED_S / len(_BATCHES) or runs == 0:
        engine.infer(images_nhwc)
        runs += 1
    return runs * batch / elapsed


def recommend(reports: tuple[ProviderReport, ...], model: ModelReport | None) -> Recommendation | None:
    """What to use: the fastest provider that passed; without a model, what suits the hardware.

    None when nothing can run.
    """
    usable = {report.name: report for report in reports if report.usable}
    if not usable:
        return None
    timed = [(report.best.crops_per_s, report) for report in usable.values() if report.best is not None]
    if timed and model is not None:
        rate, fastest = max(timed, key=lambda pair: pair[0])
        assert fastest.best is not None
        better = preferred_precision(tuple(usable))
        why = f"the fastest here that passed the self-test, {rate:.1f} crops/s in a short trial"
        if better != model.precision:
            why += f"; this machine is built for {better}, which is worth a separate export"
        return Recommendation(fastest.name, model.precision, fastest.best.batch, why)
    name = next((name for name in ("tensorrt", "cuda", "tensorrt-rtx", "cpu") if name in usable), next(iter(usable)))
    on_gpu = name in ("tensorrt", "cuda", "tensorrt-rtx")
    return Recommendation(
        name,
        preferred_precision(tuple(usable)),
        32 if on_gpu else 4,
        "by hardware alone; with --model every provider is tried and timed",
    )


def preferred_precision(usable: tuple[str, ...]) -> str:
    """What to export for: fp16 for a GPU, int8 where the processor has 8-bit dot products, else fp32."""
    if any(name in usable for name in ("cuda", "tensorrt", "tensorrt-rtx")):
        return "fp16"
    return "int8" if hardware.has_native_int8() else "fp32"
