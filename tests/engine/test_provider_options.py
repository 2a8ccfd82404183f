"""What providers are asked for: batches, threads, option names, and which files suit which provider."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glomedge.engine import providers
from glomedge.engine.backends import nvidia, nvidia_machine, nvidia_options, onnxrt
from glomedge.engine.backends.gpu_memory import CUDA_LIBRARY
from glomedge.engine.options import EngineOptions
from glomedge.engine.runner import Runner, SessionRequest
from glomedge.errors import ProviderUnavailableError
from glomedge.model.spec import BatchProfile
from glomedge.system import cpu, gpu, libraries
from glomedge.system.telemetry import import_onnxruntime
from helpers import builders
from helpers.wheels import CAPI, cpu_only, gpu_wheel, request_for

ort = import_onnxruntime()


@cpu_only
@pytest.mark.parametrize(
    ("name", "batch"), [("auto", 4), ("cpu", 4), ("openvino", 4), ("cuda", 32), ("tensorrt", 32), ("tensorrt-rtx", 32)]
)
def test_the_usual_batch_is_the_devices(name: str, batch: int) -> None:
    assert providers.usual_batch(EngineOptions(name), None) == batch


@pytest.mark.parametrize("usable", [True, False])
def test_auto_takes_the_gpus_batch_only_where_a_gpu_provider_can_run(
    monkeypatch: pytest.MonkeyPatch, usable: bool
) -> None:
    monkeypatch.setattr(providers, "session_gpu", lambda: gpu.Gpu("NVIDIA L4", "8.9", 1 << 34))

    def unusable() -> str | None:
        return None if usable else "no library"

    for name, provider in providers.PROVIDERS.items():
        if provider.gpu:
            monkeypatch.setitem(providers.PROVIDERS, name, dataclasses.replace(provider, unusable=unusable))
    assert providers.usual_batch(EngineOptions(), None) == (32 if usable else 4)


@pytest.mark.parametrize(
    ("usable", "batches"),
    [
        ((), {"cuda": (32, 4), "tensorrt": (32, 4), "openvino": (4, 4), "cpu": (4, 4)}),
        (("cuda",), {"cuda": (32, 32), "tensorrt": (32, 32), "openvino": (4, 32), "cpu": (4, 4)}),
    ],
)
def test_what_may_fall_back_takes_the_batch_of_what_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, usable: tuple[str, ...], batches: dict[str, tuple[int, int]]
) -> None:
    monkeypatch.setattr(providers, "session_gpu", lambda: gpu.Gpu("NVIDIA L4", "8.9", 1 << 34))
    for name, provider in providers.PROVIDERS.items():
        says = (lambda: None) if name in (*usable, "cpu") else (lambda: "no library")
        monkeypatch.setitem(providers.PROVIDERS, name, dataclasses.replace(provider, unusable=says))
    for name, (exactly, allowed) in batches.items():
        options = EngineOptions(name)
        assert providers.usual_batch(options, None) == exactly
        assert providers.usual_batch(dataclasses.replace(options, allow_fallback=True), None) == allowed
    assert providers.run_threads(EngineOptions("cuda", allow_fallback=True), None) == (
        2 if usable else min(cpu.usable_cpus(), 8)
    )


@pytest.mark.parametrize(
    ("threads", "concurrency", "intra", "spinning"), [(4, 1, 4, "1"), (4, 2, 2, "0"), (2, 8, 1, "0"), (1, 1, 1, "1")]
)
def test_callers_share_the_threads(tiny_model: Path, threads: int, concurrency: int, intra: int, spinning: str) -> None:
    options = onnxrt.session_options(request_for(tiny_model, threads=threads, concurrency=concurrency))
    assert options.intra_op_num_threads == intra
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == spinning
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    with pytest.raises(RuntimeError, match="spin_duration_us"):
        options.get_session_config_entry("session.intra_op.spin_duration_us")


def test_beside_a_servers_decoders_no_thread_spins_for_long(tiny_model: Path) -> None:
    options = onnxrt.session_options(dataclasses.replace(request_for(tiny_model), shares_cpus=True))
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert 0 < int(options.get_session_config_entry("session.intra_op.spin_duration_us")) < 20


@gpu_wheel
@pytest.mark.parametrize("library", [nvidia_machine.TENSORRT_LIBRARY, CUDA_LIBRARY])
def test_option_names_are_those_of_the_installed_library(tiny_model: Path, library: str) -> None:
    request = request_for(tiny_model)
    if library == CUDA_LIBRARY:
        names = set(nvidia_options.cuda_options(request))
    else:
        names = set(nvidia_options.tensorrt_options(request, "x"))
    content = (CAPI / library).read_bytes()
    assert [name for name in sorted(names) if name.encode() + b"\0" not in content] == []


@pytest.mark.skipif(
    libraries.module_folder(nvidia_machine.RTX_MODULE) is None,
    reason="onnxruntime-ep-nv-tensorrt-rtx-cu13 is not installed",
)
def test_tensorrt_rtx_option_names_are_those_of_its_header(tiny_model: Path) -> None:
    folder = libraries.module_folder(nvidia_machine.RTX_MODULE)
    assert folder is not None
    header = (folder / "tensorrt_rtx_provider_options.h").read_text(encoding="utf-8")
    names = nvidia_options.tensorrt_rtx_options(request_for(tiny_model), "x")
    assert [name for name in names if f'"{name}"' not in header] == []


@pytest.mark.parametrize(("fixed", "graph"), [(True, "1"), (False, "0")])
def test_cuda_graphs_only_for_fixed_shapes(tiny_model: Path, fixed: bool, graph: str) -> None:
    request = request_for(tiny_model, fixed_batch=fixed)
    assert nvidia_options.cuda_options(request)["enable_cuda_graph"] == graph
    assert nvidia_options.tensorrt_options(request, "x")["trt_cuda_graph_enable"] == graph
    assert nvidia_options.tensorrt_rtx_options(request, "x")["enable_cuda_graph"] == graph


@pytest.mark.parametrize(
    ("precision", "tf32_on_cuda", "nhwc"), [("fp32", "0", "0"), ("fp16", "1", "1"), ("int8", "1", "0")]
)
def test_precision_is_in_the_file_and_in_no_option_of_tensorrt(
    tmp_path: Path, precision: str, tf32_on_cuda: str, nhwc: str
) -> None:
    path = tmp_path / "model.onnx"
    builders.build_tiny_model(path, precision=precision)
    request = request_for(path)
    options = nvidia_options.tensorrt_options(request, "folder")
    # Either of them would switch strong typing off.
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == ("0", "0")
    cuda = nvidia_options.cuda_options(request)
    # "0" deselects tensor cores for every type, so fp16 must not have it.
    assert (cuda["use_tf32"], cuda["prefer_nhwc"]) == (tf32_on_cuda, nhwc)
    assert options["trt_profile_min_shapes"] == "images:1x224x224x3"
    assert options["trt_profile_opt_shapes"] == "images:8x224x224x3"
    assert options["trt_profile_max_shapes"] == "images:32x224x224x3"


@pytest.mark.parametrize(
    ("profile", "sizes"),
    [((1, 32, 128), (1, 2, 4, 8, 16, 32)), ((1, 24, 32), (1, 3, 6, 12, 24)), ((64, 64, 64), (64,))],
)
def test_a_gpu_runs_the_usual_batch_or_a_half_of_it(
    tiny_model: Path, profile: tuple[int, int, int], sizes: tuple[int, ...]
) -> None:
    smallest, usual, largest = profile
    request = request_for(tiny_model, profile=BatchProfile(min=smallest, opt=usual, max=largest))
    assert nvidia.batch_sizes(request) == sizes


class _SeenError(Exception):
    """Ends the opening of a session once its options have been looked at."""


@pytest.mark.parametrize(
    ("opened", "disabled"),
    [
        (nvidia.open_cuda, "Pad_Fusion"),
        (nvidia.open_tensorrt, "Pad_Fusion;WeightBiasQuantization"),
    ],
)
def test_the_pass_that_breaks_int8_files_does_not_run_before_nvidias_parser(
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path,
    tmp_path: Path,
    opened: Callable[[SessionRequest], Runner],
    disabled: str,
) -> None:
    seen: list[str] = []

    def look(_request: object, _providers: object, options: Any) -> Any:
        seen.append(options.get_session_config_entry("optimization.disable_specified_optimizers"))
        raise _SeenError

    monkeypatch.setattr(onnxrt, "create_session", look)
    with pytest.raises(_SeenError):
        opened(request_for(tiny_model, cache_dir=tmp_path / "cache"))
    assert seen == [disabled]


def test_the_tensorrt_of_pip_is_loaded_whole_before_its_session(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    package = tmp_path / "tensorrt_libs"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    # What the GPU wheel asks for; no loader finds a library of this name.
    (package / "libnvinfer.so.10").touch()
    monkeypatch.setattr(nvidia, "_wanted_tensorrt", lambda: "libnvinfer.so.10")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt_libs", raising=False)

    def look(*_: object) -> Any:
        assert "tensorrt_libs" in sys.modules
        raise _SeenError

    monkeypatch.setattr(onnxrt, "create_session", look)
    with pytest.raises(_SeenError):
        nvidia.open_tensorrt(request_for(tiny_model, cache_dir=tmp_path / "cache"))
    del sys.modules["tensorrt_libs"]
    (package / "__init__.py").write_text("raise OSError('libnvinfer.so.10: file too short')\n", encoding="utf-8")
    importlib.invalidate_caches()
    with pytest.raises(ProviderUnavailableError, match=r"file too short\). Install it again, or use --provider cuda"):
        nvidia.open_tensorrt(request_for(tiny_model, cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize(
    ("target", "refused"), [("any", True), ("onnxruntime", True), ("openvino", True), ("tensorrt", False)]
)
def test_int8_files_of_other_targets_are_not_given_to_nvidias_parser(
    tmp_path: Path, target: str, refused: bool
) -> None:
    path = tmp_path / "model.onnx"
    builders.build_tiny_model(path, precision="int8", target=target)
    spec = request_for(path).file.spec
    reason = nvidia.refused_by_parser(spec)
    assert (reason is not None) is refused
    assert nvidia.refused_by_cuda(spec) is not None


L4, H100 = gpu.Gpu("NVIDIA L4", "8.9", 1 << 34), gpu.Gpu("NVIDIA H100", "9.0", 1 << 36)


@pytest.mark.parametrize(
    ("precision", "target", "usable", "on_gpu"),
    [
        ("fp32", "any", ("cuda", "tensorrt"), True),
        ("fp16", "tensorrt", ("cuda", "tensorrt"), True),
        ("int8", "tensorrt", ("cuda", "tensorrt"), True),
        # Neither CUDA's provider nor NVIDIA's parser takes this file: auto runs it on the CPU.
        ("int8", "onnxruntime", ("cuda", "tensorrt"), False),
        ("int8", "tensorrt", ("cuda",), False),
        # For this one auto takes OpenVINO, which comes first for its target.
        ("fp32", "openvino", ("cuda", "tensorrt", "openvino"), False),
        ("fp32", "openvino", ("cuda", "tensorrt"), True),
        ("fp32", "any", (), False),
    ],
)
def test_batch_and_threads_are_those_of_what_auto_will_take_for_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str, target: str, usable: tuple[str, ...], on_gpu: bool
) -> None:
    path = tmp_path / "model.onnx"
    builders.build_tiny_model(path, precision=precision, target=target)
    spec = request_for(path).file.spec
    monkeypatch.setattr(providers, "session_gpu", lambda: L4)
    for name, provider in providers.PROVIDERS.items():
        says = (lambda: None) if name in (*usable, "cpu") else (lambda: "no library")
        monkeypatch.setitem(providers.PROVIDERS, name, dataclasses.replace(provider, unusable=says))
    assert providers.runs_on_gpu(EngineOptions(), spec) is on_gpu
    assert providers.batch_of(EngineOptions(), spec) == (32 if on_gpu else 4)
    assert providers.run_threads(EngineOptions(), spec) == (2 if on_gpu else min(cpu.usable_cpus(), 8))
    # Who names a provider gets its batch, whatever the model is.
    assert providers.batch_of(EngineOptions("cuda"), spec) == 32


def test_a_gpu_that_cuda_does_not_count_takes_no_gpus_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "session_gpu", lambda: None)
    for name, provider in providers.PROVIDERS.items():
        monkeypatch.setitem(providers.PROVIDERS, name, dataclasses.replace(provider, unusable=lambda: None))
    assert providers.batch_of(EngineOptions(), None) == 4


@pytest.mark.parametrize(("card", "batch"), [(L4, 32), (H100, 4)])
def test_a_gpu_that_the_rtx_plugin_refuses_does_not_count_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, card: gpu.Gpu, batch: int
) -> None:
    """On an H100 with the plugin alone the CPU runs: NVIDIA's plugin takes compute 8.6, 8.9 and 12.0 or newer."""
    monkeypatch.setattr(providers, "session_gpu", lambda: card)
    monkeypatch.setattr(nvidia_machine, "session_gpu", lambda: card)
    for name, provider in providers.PROVIDERS.items():
        if name not in ("cpu", "tensorrt-rtx"):
            monkeypatch.setitem(providers.PROVIDERS, name, dataclasses.replace(provider, unusable=lambda: "no library"))
    monkeypatch.setattr(nvidia_machine, "_rtx_library_problem", lambda folder: None)
    package = tmp_path / nvidia_machine.RTX_MODULE
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(nvidia_machine.RTX_MODULE)
    del sys.modules[nvidia_machine.RTX_MODULE]
    monkeypatch.setitem(sys.modules, nvidia_machine.RTX_MODULE, module)  # taken out again after the test
    assert providers.batch_of(EngineOptions(), None) == batch
