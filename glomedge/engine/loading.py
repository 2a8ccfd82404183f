"""``load`` and ``open_engine``, the only way to an Engine.

It checks the file's seal, its graph and its contract, opens the provider that was asked for (see ``providers.py``), and
runs the golden self-test on it before anything is served.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glomedge.engine import selftest
from glomedge.engine.engine import Engine, Runtime
from glomedge.engine.options import EngineOptions
from glomedge.engine.runner import RawOutput, Runner, SessionRequest
from glomedge.errors import ModelError, ProviderUnavailableError, UsageError
from glomedge.model.file import ModelFile, read_model_file
from glomedge.model.spec import BatchProfile


def load(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes] | ModelFile,
    provider: str = "auto",
    *,
    allow_fallback: bool = False,
    strict_placement: bool = False,
    threads: int | None = None,
    concurrency: int = 1,
    batch_size: int | None = None,
    max_batch: int | None = None,
    fixed_batch: bool = False,
    bf16: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    self_test: bool = True,
) -> Engine:  # the Python contract: one keyword each, so more of them than usual
    """Load a model that glomedge exported; ``open_engine`` for those who have the options in one object.

    Args:
        path: the ``.onnx`` file; or what ``read_model_file`` said of it, and then it is read again only where it has
            changed since.
        provider, allow_fallback, strict_placement, batch_size, max_batch, fixed_batch, bf16, cache_dir: see
            ``EngineOptions``.
        threads: CPU threads in all; every CPU this process may use by default.
        concurrency: how many threads will call ``infer`` at once. Two callers on two CPUs are faster than one
            caller with two threads.
        self_test: run the golden self-test; switch off only to inspect a file that fails it.

    Raises:
        ModelError: the file is missing, damaged, not ours, or its spec and graph disagree.
        SelfTestError: it gives other pixels or another probability here than at export.
        ProviderUnavailableError: the provider cannot run here; names the library and the package.
        UsageError: an argument out of range.
    """
    options = EngineOptions(
        provider=provider,
        allow_fallback=allow_fallback,
        strict_placement=strict_placement,
        batch_size=batch_size,
        max_batch=max_batch,
        fixed_batch=fixed_batch,
        cache_dir=Path(cache_dir) if cache_dir is not None else None,
        bf16=bf16,
    )
    return open_engine(path, options, threads=threads, concurrency=concurrency, self_test=self_test)


def open_engine(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes] | ModelFile,
    options: EngineOptions,
    *,
    threads: int | None = None,
    concurrency: int = 1,
    shares_cpus: bool = False,
    self_test: bool = True,
) -> Engine:
    """What ``load`` does, with everything that was asked of the engine in one object.

    ``threads``, ``concurrency``, ``shares_cpus`` and ``self_test`` are not among the options: they follow from how the
    caller is going to use the engine, not from what its user asked for. Arguments and errors as in ``load``;
    ``shares_cpus`` says that other threads of the caller's compute at the same time as the engine.
    """
    from glomedge.engine import providers
    from glomedge.model.graph import check_graph
    from glomedge.system import cpu

    for name, value in (
        ("threads", threads),
        ("concurrency", concurrency),
        ("batch_size", options.batch_size),
        ("max_batch", options.max_batch),
    ):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}.")
    if isinstance(path, ModelFile):
        file = path if path.unchanged() else read_model_file(path.path)
    else:
        file = read_model_file(Path(os.fsdecode(path)))
    check_graph(file.path, file.spec)
    if options.batch_size is None and providers.runs_on_gpu(options, file.spec):
        # What every command takes: a GPU runs this size alone, and `warm` has built the engine for it.
        options = replace(options, batch_size=providers.batch_of(options, file.spec))
    request = SessionRequest(
        file=file,
        threads=threads or cpu.usable_cpus(),
        concurrency=concurrency,
        profile=batch_profile(file.spec.batch_profile, options),
        fixed_batch=options.fixed_batch,
        self_test=self_test,
        record_placement=options.strict_placement,
        bf16=options.bf16,
        cache_dir=options.cache_dir,
        shares_cpus=shares_cpus,
    )
    with contextlib.ExitStack() as beside:
        pixels = beside.enter_context(selftest.PixelTest(file.spec)) if self_test else None
        choice = _open(options, request)
        if options.fixed_batch and not providers.named(choice.name).gpu:
            choice.notes.append(f"--fixed-batch is for GPUs and changes nothing on {choice.name}")
        try:
            return _tested(choice, options, request, pixels)
        except BaseException:
            choice.runner.close()
            raise


@dataclass
class _Choice:
    """The provider that runs, what its user should know of the choice, and why each other one was passed over."""

    name: str
    runner: Runner
    notes: list[str]
    passed_over: list[str]


def _tested(
    choice: _Choice, options: EngineOptions, request: SessionRequest, pixels: selftest.PixelTest | None
) -> Engine:
    """The engine on an open runner, once contract, placement and golden self-test have been held against it."""
    file, name, runner = request.file, choice.name, choice.runner
    if not file.unchanged():
        raise ModelError(f"{file.path} was replaced while it was being loaded. Start again.")
    selftest.contract_test(file.spec, runner, file.path)
    if options.strict_placement and runner.opened.strays:
        _refuse_strays(name, runner)
    runtime = Runtime(
        requested=options.provider,
        provider=name,
        precision=runner.opened.precision,
        threads=request.threads,
        concurrency=request.concurrency,
        versions=runner.opened.versions,
        options=runner.opened.options,
        placement=runner.opened.placement,
        notes=(*choice.notes, *runner.opened.notes),
        passed_over=tuple(choice.passed_over),
    )
    engine = Engine(file, runner, runtime, request.profile.max)
    if pixels is not None:
        _self_test(engine, runner, pixels)
    return engine


def require_bf16(engine: Engine, options: EngineOptions) -> None:
    """Raise UsageError where bfloat16 was asked for and the provider that runs computes in something else."""
    if options.bf16 and engine.runtime.precision != "bf16":
        raise UsageError(
            f"--bf16: {engine.provider} computes this model in {engine.runtime.precision}. Use "
            "--provider openvino on a processor with bfloat16, or leave the option off."
        )


def batch_profile(default: BatchProfile, options: EngineOptions) -> BatchProfile:
    """The batch sizes to build for: the spec's, overridden by what the user gave.

    ``batch_size`` alone also is the maximum unless the spec's is larger, or the batch is fixed: then it is the only
    size. Raises UsageError where they contradict, in the words of ``load``: commands have checked their options before
    (``EngineOptions.check``).
    """
    batch_size, max_batch = options.batch_size, options.max_batch
    if options.fixed_batch:
        if batch_size and max_batch and batch_size != max_batch:
            raise UsageError(
                f"fixed_batch runs one batch size, and batch_size {batch_size} is not max_batch {max_batch}. "
                "Give one of them."
            )
        only = batch_size or max_batch or default.max
        return BatchProfile(min=only, opt=only, max=only)
    largest = max_batch or max(batch_size or 1, default.max)
    usual = batch_size or min(default.opt, largest)
    if usual < 1 or usual > largest:
        raise UsageError(f"batch_size {usual} is not between 1 and max_batch {largest}. Raise max_batch.")
    return BatchProfile(min=1, opt=usual, max=largest)


def _open(options: EngineOptions, request: SessionRequest) -> _Choice:
    from glomedge.engine import providers
    from glomedge.system import gpu

    name = options.provider
    notes: list[str] = []
    passed_over: list[str] = []
    if name != "auto":
        wanted = providers.named(name)
        try:
            providers.require_usable(wanted)
            return _Choice(name, providers.open_provider(wanted, request), [], [])
        except ProviderUnavailableError as error:
            if not options.allow_fallback:
                raise
            why = str(error).removesuffix(providers.ACCEPT_ANOTHER)
            notes.append(f"--allow-fallback: {name} was asked for and cannot run: {why}")
    order = [provider for provider in providers.preference(request) if provider.name != name]
    for position, provider in enumerate(order):
        reason = providers.reason_against(provider, request)
        if reason is not None:
            passed_over.append(reason)
            continue
        try:
            runner = providers.open_provider(provider, request)
        except ProviderUnavailableError as error:
            passed_over.append(str(error))
            continue
        if name == "auto" and any(other.gpu for other in order[:position]) and gpu.find_gpus().devices:
            # Advice on a GPU's software helps only where there is the GPU.
            notes += passed_over
        if name == "auto":
            target = request.file.spec.target
            passed_over += [
                f"{other.name}: not tried, {provider.name} comes first for target '{target}'"
                for other in order[position + 1 :]
            ]
        asked = "auto" if name == "auto" else "--allow-fallback"
        notes.append(f"{asked} chose {provider.name}; glomedge doctor explains why not another provider")
        return _Choice(provider.name, runner, notes, passed_over)
    raise ProviderUnavailableError(
        f"No provider can run {request.file.path} here: {' | '.join((*notes, *passed_over))}. Run: glomedge doctor"
    )


def _refuse_strays(name: str, runner: Runner) -> None:
    strays = runner.opened.strays
    total = sum(runner.opened.placement.values())
    shown = ", ".join(strays[:10]) + (f" and {len(strays) - 10} more" if len(strays) > 10 else "")
    elsewhere = ", ".join(f"{provider}: {count}" for provider, count in sorted(runner.opened.placement.items()))
    raise ProviderUnavailableError(
        f"--strict-placement: {len(strays)} of {total} nodes would not run on {name} ({elsewhere}): {shown}. "
        "Leave the option off to accept that, or export the model for this provider."
    )


def _self_test(engine: Engine, runner: Runner, pixels: selftest.PixelTest) -> None:
    def run(images_nhwc: npt.NDArray[np.uint8]) -> RawOutput:
        output = engine.infer(images_nhwc)
        return output.probability, output.activation

    selftest.self_test(engine.spec, runner, run, where=f"provider {engine.provider}", pixels=pixels)
