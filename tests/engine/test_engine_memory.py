"""A device that runs out of memory: recognised by onnxruntime's messages, and by really running out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.engine import loading, providers
from glomedge.engine.backends import nvidia_options, onnxrt
from glomedge.engine.runner import OutOfMemoryError
from glomedge.errors import EngineError, GlomedgeError, ProviderUnavailableError
from glomedge.system import gpu, libraries
from glomedge.system.telemetry import import_onnxruntime
from helpers import builders

ort = import_onnxruntime()

GPU_WHEEL = [package.name for package in libraries.onnxruntime_packages()] == ["onnxruntime-gpu"]
HAS_GPU = bool(gpu.find_gpus().devices)

# What the libraries write, as users have quoted it (onnxruntime issues 10770, 16512, 23121; TensorRT issues
# 3017, 4258); the names of cuBLAS' and cuDNN's states are those of their headers.
OUT_OF_MEMORY = [
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=egg ; file=cuda_allocator.cc ; line=47 ; expr=cudaMalloc(&p, s)",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "Non-zero status code returned while running Gemm node. Name:'fc1' Status Message: CUBLAS failure 3: "
    "CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=egg ; line=168 ; expr=cublasCreate(&cublas_handle_);",
    "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cudnnCreate(&cudnn_handle_);",
    "CUDNN failure 4004: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0 ; hostname=egg",
    "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*, bool, "
    "onnxruntime::WaitNotificationFn) Failed to allocate memory for requested buffer of size 285081600",
    "Available memory of 387667456 is smaller than requested bytes of 390021120",
    "Failed to find a free memory block despite calling Extend. rounded_bytes=19267584",
    "[executionContext.cpp::ExecutionContext::470] Error Code 2: OutOfMemory (no further information)",
    "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: bad allocation",
    "std::bad_alloc",
    # tensorrt_execution_provider.cc, where createExecutionContext gives nothing: at opening, and for a larger batch.
    "[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP could not build execution context for fused node: "
    "TensorrtExecutionProvider_TRTKernel_graph_main_graph_1_0",
    "NvTensorRTRTX EP could not build execution context for fused node: NvTensorRTRTXExecutionProvider_1_0",
    "[ONNXRuntimeError] : 1 : FAIL : TensorRT EP failed to create context.",
]
# Halving the batch would cure none of these, and would hide them.
OTHER_FAILURES = [
    "CUDA failure 700: an illegal memory access was encountered ; GPU=0",
    "CUDA failure 719: unspecified launch failure ; GPU=0",
    "CUDA failure 999: unknown error ; GPU=0",
    "CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED ; GPU=0 ; expr=cublasCreate(&cublas_handle_);",
    "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0 ; hostname=egg",
    "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0 ; hostname=egg",
    "CUDNN failure 3000: CUDNN_STATUS_NOT_SUPPORTED ; GPU=0 ; hostname=egg",
    "bfc_arena.cc:553 void onnxruntime::BFCArena::DeallocateRawInternal(void*) Trying to free an unknown chunk",
    "TensorRT EP execution context enqueue failed.",
    "Non-zero status code returned while running MemcpyFromHost node. Name:'Memcpy'",
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: images",
]


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_words_that_mean_memory_ran_out(text: str) -> None:
    failure = onnxrt.engine_error(RuntimeError(text), 32)
    assert isinstance(failure, OutOfMemoryError)


@pytest.mark.parametrize("text", OTHER_FAILURES)
def test_words_that_mean_something_else(text: str) -> None:
    failure = onnxrt.engine_error(RuntimeError(text), 32)
    assert isinstance(failure, EngineError)
    assert not isinstance(failure, OutOfMemoryError)


def test_a_missing_cudnn_is_no_lost_device() -> None:
    text = (
        "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Non-zero status code returned while running Conv node. Name:'stem' "
        "Status Message: cuDNN is unavailable or disabled"
    )
    failure = onnxrt.engine_error(RuntimeError(text), 32)
    assert isinstance(failure, ProviderUnavailableError)
    assert "onnxruntime-gpu[cuda,cudnn]" in str(failure)
    assert "device may be lost" not in str(failure)
    assert len(str(failure)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "CUDA failure 209: no kernel image is available for execution on the device ; GPU=0 ; hostname=x",
        "CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available",
    ],
)
def test_a_gpu_that_the_wheel_has_no_kernels_for_is_no_lost_device(text: str) -> None:
    failure = onnxrt.engine_error(RuntimeError(text), 32)
    assert isinstance(failure, ProviderUnavailableError)
    assert "no kernels for this GPU" in str(failure)
    assert "device may be lost" not in str(failure)
    assert len(str(failure)) < 500


def crops(count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Random crops and the probabilities they must get."""
    images = np.random.default_rng(count).integers(0, 256, (count, 224, 224, 3), np.uint8)
    return images, 1 / (1 + np.exp(-builders.tiny_logit(images)))


def counted_errors(monkeypatch: pytest.MonkeyPatch) -> list[GlomedgeError]:
    """Every failure of a run from here on, as reported to the Engine."""
    seen: list[GlomedgeError] = []
    real = onnxrt.engine_error

    def noted(error: BaseException, batch: int) -> GlomedgeError:
        seen.append(real(error, batch))
        return seen[-1]

    monkeypatch.setattr(onnxrt, "engine_error", noted)
    return seen


@pytest.fixture(scope="module")
def small_arena() -> Callable[[Any], Any]:
    """Session options changed so that onnxruntime's CPU arena ends at 40 MB: its own words, without a GPU."""
    limits = ort.OrtArenaCfg(40_000_000, 0, 1 << 20, -1)
    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(where, limits)  # for the process; only sessions that ask for it use it

    def changed(options: Any) -> Any:
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.log_severity_level = 4
        return options

    return changed


def test_a_full_arena_of_onnxruntime_halves_the_batch(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, small_arena: Callable[[Any], Any]
) -> None:
    real = onnxrt.session_options
    monkeypatch.setattr(onnxrt, "session_options", lambda request: small_arena(real(request)))
    images, expected = crops(64)
    with loading.load(tiny_model, "cpu", max_batch=64) as model:
        seen = counted_errors(monkeypatch)
        np.testing.assert_allclose(model.infer(images).probability, expected, atol=1e-5)
        assert seen
        assert all(isinstance(error, OutOfMemoryError) for error in seen)
        tries = len(seen)
        model.infer(images)
    assert len(seen) == tries  # the smaller batch is remembered


@pytest.mark.gpu
@pytest.mark.skipif(not (HAS_GPU and GPU_WHEEL), reason="needs an NVIDIA GPU and onnxruntime-gpu")
def test_a_gpu_that_runs_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    if (reason := providers.named("cuda").unusable()) is not None:
        pytest.skip(reason)
    real = nvidia_options.cuda_options
    # A card of 256 MB: the 512 crops as float32 alone are 308 MB, those of the next smaller batch 5 MB.
    monkeypatch.setattr(
        nvidia_options, "cuda_options", lambda request: real(request) | {"gpu_mem_limit": str(256 << 20)}
    )
    images, expected = crops(512)
    with loading.load(tiny_model, "cuda", batch_size=8, max_batch=512) as model:
        seen = counted_errors(monkeypatch)
        np.testing.assert_allclose(model.infer(images).probability, expected, atol=1e-4)
    assert seen
    assert all(isinstance(error, OutOfMemoryError) for error in seen)
