"""The table of providers: name, how to install it, whether it can run here, and how it is opened.

To add a provider, write its option builder and add one ``Provider`` to ``PROVIDERS``; nothing else knows their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from glomedge.about import install_command
from glomedge.engine.backends import gpu_memory, nvidia, nvidia_machine, onnxrt, openvino_runtime
from glomedge.engine.options import EngineOptions
from glomedge.engine.runner import Runner, SessionRequest
from glomedge.errors import ProviderUnavailableError, UsageError
from glomedge.model.spec import ModelSpec
from glomedge.system import cpu, libraries
from glomedge.system.gpu import session_gpu

CPU_BATCH = 4
"""Fastest for int8 with a run thread on each core."""
GPU_BATCH = 32
GPU_RUN_THREADS = 2
"""One gathers its crops while the other's are on the device; more would only wait."""
MOST_RUN_THREADS = 8

ProviderName = Literal["auto", "cpu", "cuda", "tensorrt", "tensorrt-rtx", "openvino"]


@dataclass(frozen=True)
class Provider:
    """One way to run a model.

    Attributes:
        name: what ``--provider`` takes.
        install: what pip is asked for (``about.install_command``).
        unusable: why it cannot run on this machine, None when nothing speaks against it; ends with what to do.
        open: the session factory. Raises ProviderUnavailableError, ModelError, OutOfMemoryError.
        refuses: why ``auto`` never takes it for such a model although it would run; None when it may.
        unsuited: why ``auto`` skips it for these batch sizes at this time; None when it does not.
        gpu: whether it runs on a GPU, and so needs large batches.
    """

    name: str
    install: str
    unusable: Callable[[], str | None]
    open: Callable[[SessionRequest], Runner]
    refuses: Callable[[ModelSpec], str | None] = lambda spec: None
    unsuited: Callable[[SessionRequest], str | None] = lambda request: None
    gpu: bool = False


def onnxruntime_provider(
    name: str,
    ort_name: str,
    options: Callable[[SessionRequest], Mapping[str, str]] = lambda request: {},
    *,
    install: str,
    library: str | None = None,
    device_problem: Callable[[], str | None] = lambda: None,
    open_with: Callable[[SessionRequest], Runner] | None = None,
    refuses: Callable[[ModelSpec], str | None] = lambda spec: None,
    unsuited: Callable[[SessionRequest], str | None] = lambda request: None,
    gpu: bool = False,
) -> Provider:  # one keyword for each column of the table below, nearly all with a default: more of them than usual
    """The entry of a provider built into onnxruntime; its option builder is all that most need.

    Args:
        name: what ``--provider`` takes.
        ort_name: onnxruntime's name for it.
        options: the option builder, for the ordinary factory.
        install: what pip is asked for (``about.install_command``).
        library: its own shared library beside onnxruntime's, read for what it links against.
        device_problem: why its device is not usable, None when it is.
        open_with: another factory than ``onnxrt.open_session``, for tensors that stay on the device.
        refuses, unsuited, gpu: see ``Provider``.
    """

    def unusable() -> str | None:
        reason = builtin_unusable(name, ort_name, install, library)
        if reason is None and (problem := device_problem()) is not None:
            reason = f"{name}: {problem}. Use --provider cpu"
        return reason

    def open_it(request: SessionRequest) -> Runner:
        return onnxrt.open_session(ort_name, request, options(request))

    return Provider(name, install, unusable, open_with or open_it, refuses, unsuited, gpu)


def builtin_unusable(name: str, ort_name: str, install: str, library: str | None) -> str | None:
    """Why a provider built into onnxruntime cannot run here.

    Looks at the installed package, then at what the provider's own library links against.
    """
    cure = nvidia_machine.install_gpu() if install == nvidia_machine.INSTALL_GPU else install_command(install)
    on_jetson = nvidia_machine.jetson_advice() if install == nvidia_machine.INSTALL_GPU else None
    packages = libraries.onnxruntime_packages()
    if not packages:
        return f"{name}: onnxruntime is not installed. {on_jetson or f'Install it with: {cure}'}"
    if len(packages) > 1:
        return f"{name}: {both_installed(packages)}"
    if ort_name not in libraries.providers_built_in():
        lacking = f"{ort_name} ({library})" if library else ort_name
        return (
            f"{name}: the installed package {packages[0].name} {packages[0].version} is built without {lacking}. "
            f"{on_jetson or _replace(packages[0].name, install, cure)}"
        )
    folder = libraries.module_folder("onnxruntime")
    if library is None or folder is None:
        return None
    path = folder / "capi" / library
    if not path.is_file():
        return (
            f"{name}: the provider's library {library} is missing from {packages[0].name}. "
            f"{on_jetson or f'Reinstall: {cure}'}"
        )
    return nvidia_machine.library_problem(name, path, on_jetson)


def _replace(installed: str, install: str, cure: str) -> str:
    if install == nvidia_machine.INSTALL_GPU:
        return nvidia_machine.replace_by_gpu_wheel(installed)
    return f"Replace it: pip uninstall {installed}, then {cure}"


def both_installed(packages: tuple[libraries.Package, ...]) -> str:
    """The message about two onnxruntime packages in one environment, with the fix."""
    names = " ".join(package.name for package in packages)
    last = packages[-1].name
    # By its name alone pip brings the newest, which an older driver does not run.
    install = nvidia_machine.install_gpu() if last == "onnxruntime-gpu" else f"pip install {last}"
    cure = nvidia_machine.jetson_advice() or f"pip uninstall -y {names}, then {install}"
    return (
        f"{' and '.join(f'{package.name} {package.version}' for package in packages)} are both installed: they "
        "overwrite each other's files, and the GPU is lost without any message. Remove all of them and install one: "
        f"{cure}"
    )


PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        onnxruntime_provider("cpu", onnxrt.CPU, install="glomedge[cpu]", open_with=onnxrt.open_cpu),
        onnxruntime_provider(
            "cuda",
            nvidia.CUDA,
            install=nvidia_machine.INSTALL_GPU,
            library=gpu_memory.CUDA_LIBRARY,
            device_problem=nvidia_machine.no_gpu,
            open_with=nvidia.open_cuda,
            refuses=nvidia.refused_by_cuda,
            gpu=True,
        ),
        onnxruntime_provider(
            "tensorrt",
            nvidia.TENSORRT,
            install=nvidia_machine.INSTALL_GPU,
            library=nvidia_machine.TENSORRT_LIBRARY,
            device_problem=nvidia_machine.no_gpu,
            open_with=nvidia.open_tensorrt,
            refuses=nvidia.refused_by_parser,
            unsuited=nvidia.unsuited_tensorrt,
            gpu=True,
        ),
        Provider(
            "tensorrt-rtx",
            install=nvidia_machine.INSTALL_RTX,
            unusable=nvidia_machine.tensorrt_rtx_unusable,
            open=nvidia.open_tensorrt_rtx,
            refuses=nvidia.refused_by_parser,
            gpu=True,
        ),
        Provider(
            "openvino",
            install="glomedge[openvino]",
            unusable=openvino_runtime.unusable,
            open=openvino_runtime.open_runner,
        ),
    )
}


def names() -> tuple[str, ...]:
    """What ``--provider`` takes."""
    return ("auto", *PROVIDERS)


def named(name: str) -> Provider:
    """The provider of that name. Raises UsageError listing the names there are."""
    if name not in PROVIDERS:
        raise UsageError(f"There is no provider {name!r}. Choose one of: {', '.join(names())}.")
    return PROVIDERS[name]


def runs_on_gpu(options: EngineOptions, spec: ModelSpec | None) -> bool:
    """Whether the provider asked for works on a GPU; for ``auto``: whether the one that it will take does.

    With ``allow_fallback`` a provider that cannot run here stands for whichever takes its place. Asked before anything
    is opened, so one that can run and then does not open is still counted.

    Args:
        options: what the user asked for.
        spec: of the model: on a machine with a GPU, an int8 file for the CPU runs on the CPU. None where there
            is no model to ask about; never left out, or the CPU would get a GPU's batch.

    Raises UsageError on an unknown name.
    """
    if options.provider != "auto":
        provider = named(options.provider)
        if not options.allow_fallback or provider.unusable() is None:
            return provider.gpu
    # The driver is asked first: it costs nothing where there is none.
    if session_gpu() is None:
        return False
    for provider in _order(spec):
        if provider.unusable() is None and (spec is None or provider.refuses(spec) is None):
            return provider.gpu
    return False


def usual_batch(options: EngineOptions, spec: ModelSpec | None) -> int:
    """Crops a call where the user does not say. Arguments as of ``runs_on_gpu``."""
    return GPU_BATCH if runs_on_gpu(options, spec) else CPU_BATCH


def batch_of(options: EngineOptions, spec: ModelSpec | None) -> int:
    """Crops a call by what the user gave; every command agrees by it, or one would build what the other misses.

    With ``fixed_batch`` ``max_batch`` names the batch as well as ``batch_size`` does. Arguments as of ``runs_on_gpu``.
    """
    if options.batch_size is not None:
        return options.batch_size
    if options.fixed_batch and options.max_batch is not None:
        return options.max_batch
    usual = usual_batch(options, spec)
    return min(usual, options.max_batch or usual)


def run_threads(options: EngineOptions, spec: ModelSpec | None) -> int:
    """How many threads should call ``infer`` at once: two for a GPU, one for each core of a CPU, at most eight.

    On a CPU, one thread a core on one session is faster than one thread with all cores. Arguments as of
    ``runs_on_gpu``.
    """
    return GPU_RUN_THREADS if runs_on_gpu(options, spec) else min(cpu.usable_cpus(), MOST_RUN_THREADS)


ACCEPT_ANOTHER = " To accept another provider, add --allow-fallback."


def require_usable(provider: Provider) -> None:
    """Raise ProviderUnavailableError, naming library and package, where the provider cannot run here."""
    reason = provider.unusable()
    if reason is not None:
        raise ProviderUnavailableError(f"{reason}.{ACCEPT_ANOTHER}")


def open_provider(provider: Provider, request: SessionRequest) -> Runner:
    """Open it; a fixed-batch GPU session gets its own thread. Raises as ``Provider.open``."""
    if provider.gpu and request.fixed_batch:
        from glomedge.engine.backends.fixed_batch import FixedBatchRunner

        return FixedBatchRunner(provider.name, provider.open, request)
    return provider.open(request)


# For a file exported for one runtime that runtime comes first; then GPUs before the CPU.
_ORDER = ("tensorrt", "cuda", "tensorrt-rtx", "cpu", "openvino")
_FIRST_BY_TARGET = {"tensorrt": ("tensorrt", "tensorrt-rtx"), "openvino": ("openvino",)}


def preference(request: SessionRequest) -> tuple[Provider, ...]:
    """Every provider, in the order in which ``auto`` tries them for a model."""
    return _order(request.file.spec)


def _order(spec: ModelSpec | None) -> tuple[Provider, ...]:
    first = () if spec is None else _FIRST_BY_TARGET.get(spec.target, ())
    order = [name for name in (*first, *_ORDER) if name in PROVIDERS]
    order += [name for name in PROVIDERS if name not in order]
    return tuple(PROVIDERS[name] for name in dict.fromkeys(order))


def reason_against(provider: Provider, request: SessionRequest) -> str | None:
    """Why ``auto`` skips a provider, None when it may be tried.

    Call it only for providers that are reached: it may load the provider's library, half a second for OpenVINO. Where
    there is no GPU, NVIDIA's libraries are left alone: a gigabyte to load, and TF32 switched off for the process.
    """
    if provider.gpu and (nothing := nvidia_machine.no_gpu()) is not None:
        return f"{provider.name}: {nothing}"
    reason = provider.unusable()
    if reason is not None:
        return reason
    unsuited = provider.refuses(request.file.spec) or provider.unsuited(request)
    return None if unsuited is None else f"{provider.name}: {unsuited}"
