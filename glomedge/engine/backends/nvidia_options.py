"""Options of the three NVIDIA providers: one table for each, by the precision of the file.

Nothing here looks at the machine, so that export can ask for the same optimiser passes as the engine.
"""

from __future__ import annotations

from collections.abc import Mapping

from glomedge.engine.backends import onnxrt
from glomedge.engine.runner import SessionRequest
from glomedge.model.spec import Precision

# This pass gives every float bias beside quantised weights an int32 DequantizeLinear (onnxruntime#22889). NVIDIA's
# parser refuses that ("must have type FP8, FP4, Int4, Int8, or UInt8"), and the graph falls apart at each of them.
DISABLED_FOR_PARSER = (*onnxrt.DISABLED_OPTIMIZERS, "WeightBiasQuantization")
"""Passes of onnxruntime that must not run before NVIDIA's parser sees the graph."""

_CUDA = {
    "device_id": "0",
    "cudnn_conv_algo_search": "EXHAUSTIVE",
    "cudnn_conv_use_max_workspace": "1",
    "arena_extend_strategy": "kSameAsRequested",
}
# TF32 keeps 10 bits of mantissa: an fp32 file would no longer agree with the CPU to 1e-4. But "0" makes
# onnxruntime's conv.cc pass over every plan that uses tensor cores, whatever the type, so it is for fp32 alone.
# Tensor cores work on NHWC, which pays where the weights are half precision.
_CUDA_BY_PRECISION: Mapping[Precision, Mapping[str, str]] = {
    "fp32": {"use_tf32": "0", "prefer_nhwc": "0"},
    "fp16": {"use_tf32": "1", "prefer_nhwc": "1"},
    "int8": {"use_tf32": "1", "prefer_nhwc": "0"},
}
_TENSORRT = {
    "device_id": "0",
    # The types in the file are the precision. Either flag would switch TensorRT's strong typing off, and its builder
    # could then lower what the file holds in float32.
    "trt_fp16_enable": "0",
    "trt_int8_enable": "0",
    "trt_engine_cache_enable": "1",
    "trt_engine_cache_prefix": "glomedge",
    "trt_builder_optimization_level": "3",
}


def disabled_optimizers(provider: str) -> tuple[str, ...]:
    """Passes of onnxruntime that must not run for a provider, by its short name or onnxruntime's."""
    return onnxrt.DISABLED_OPTIMIZERS if provider in ("cuda", "CUDAExecutionProvider") else DISABLED_FOR_PARSER


def cuda_options(request: SessionRequest) -> dict[str, str]:
    """Options of the CUDA provider. Every run has one batch size, so the search for kernels runs once."""
    return {
        **_CUDA,
        **_CUDA_BY_PRECISION[request.file.spec.precision],
        "enable_cuda_graph": "1" if request.fixed_batch else "0",
    }


def profile_shapes(request: SessionRequest) -> tuple[str, str, str]:
    """Smallest, usual and largest input, as TensorRT's options write shapes: ``images:1x224x224x3``."""
    profile, side_px = request.profile, request.file.spec.input.side_px

    def shape(batch: int) -> str:
        return f"images:{batch}x{side_px}x{side_px}x3"

    return shape(profile.min), shape(profile.opt), shape(profile.max)


def tensorrt_options(request: SessionRequest, folder: str, timings: str = "") -> dict[str, str]:
    """Options of onnxruntime's TensorRT provider.

    Args:
        request: what to load.
        folder: holds this one engine.
        timings: folder of the timing cache, which other engines use as well; empty: none, where nothing is to be built.
    """
    smallest, usual, largest = profile_shapes(request)
    return {
        **_TENSORRT,
        "trt_profile_min_shapes": smallest,
        "trt_profile_opt_shapes": usual,
        "trt_profile_max_shapes": largest,
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1" if timings else "0",
        "trt_timing_cache_path": timings,
        "trt_cuda_graph_enable": "1" if request.fixed_batch else "0",
    }


def tensorrt_rtx_options(request: SessionRequest, folder: str) -> dict[str, str]:
    """Options of NVIDIA's TensorRT-RTX plugin provider (names: its tensorrt_rtx_provider_options.h)."""
    smallest, usual, largest = profile_shapes(request)
    return {
        "nv_profile_min_shapes": smallest,
        "nv_profile_opt_shapes": usual,
        "nv_profile_max_shapes": largest,
        "nv_runtime_cache_path": folder,
        "enable_cuda_graph": "1" if request.fixed_batch else "0",
    }
