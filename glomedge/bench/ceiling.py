"""The machine's ceiling, measured in place: the multiply-adds per second of a matrix product.

A convolution network cannot run faster than the dense matrix products it is made of. So a 1024 x 1024 x 1024
product is run in the same runtime (onnxruntime's CPU kernels), in the model's precision (fp32: ``MatMul``; int8:
``MatMulInteger``, uint8 activations against prepacked int8 weights, the layout of the int8 files), by one thread
pinned to each core, each with a session of its own. bf16, which onnxruntime does not multiply on x86, is measured in
OpenVINO. The share is ``crops/s x multiply-adds of the network / that rate``.

A ceiling that is measured too low would flatter the share, so time is counted in processor seconds of the thread (a
neighbour that takes the core does not lower the rate) and the best of a few short runs is kept.

The two small models are written here as protobuf by hand: the edge has no ``onnx`` package.
Field numbers: onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from glomedge.system.cpu import has_native_bf16
from glomedge.system.environment import usable_cores
from glomedge.system.telemetry import import_onnxruntime, import_openvino

SIDE = 1024
ROUNDS = 3
_FLOAT, _UINT8, _INT8, _INT32 = 1, 2, 3, 6


@dataclass(frozen=True)
class Ceiling:
    """A measured rate, in 1e9 multiply-adds per second, and how it was measured."""

    precision: str
    rate_gmac_per_s: float
    method: str


def measure_cpu(precision: str, *, seconds: float = 1.0, threads: int | None = None) -> Ceiling | None:
    """Matrix-product rate of all usable cores in ``fp32``, ``int8`` or ``bf16``.

    None for any other precision, and for bf16 if the processor or OpenVINO does not support it.
    """
    if precision not in ("fp32", "int8", "bf16"):
        return None
    if precision == "bf16" and (not has_native_bf16() or importlib.util.find_spec("openvino") is None):
        return None
    threads = threads or usable_cores()
    rounds = [_round(precision, seconds / ROUNDS, threads) for _ in range(ROUNDS)]
    operator = {
        "fp32": "onnxruntime CPU MatMul",
        "int8": "onnxruntime CPU MatMulInteger (u8 x s8)",
        "bf16": "OpenVINO MatMul in bf16",
    }[precision]
    method = f"{operator} {SIDE}^3, {threads} pinned thread(s), best of {ROUNDS} runs of {seconds / ROUNDS:.2g} s"
    return Ceiling(precision, max(rounds), method)


def _round(precision: str, seconds: float, threads: int) -> float:
    """One run of every core at once, 1e9 multiply-adds per second."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    start = threading.Barrier(threads)
    rates = [0.0] * threads
    failures: list[Exception] = []

    def work(index: int) -> None:
        try:
            if cores:
                os.sched_setaffinity(0, {cores[index % len(cores)]})  # 0: the calling thread, not the process
            multiply = _product(precision)
            warm_until = time.perf_counter() + 0.3  # new threads can share a core for that long
            while time.perf_counter() < warm_until:
                multiply()
            start.wait(timeout=60)
            until, begin_s, done = time.perf_counter() + seconds, time.thread_time(), 0
            while done == 0 or time.perf_counter() < until:
                multiply()
                done += 1
            rates[index] = done * SIDE**3 / (time.thread_time() - begin_s) / 1e9
        except Exception as error:  # noqa: BLE001 - carried to the caller's thread and raised there
            failures.append(error)
            start.abort()

    workers = [threading.Thread(target=work, args=(i,), name=f"ceiling-{i}") for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return sum(rates)


def _product(precision: str) -> Callable[[], object]:
    """One matrix product on the calling thread."""
    feed = {"a": _activations(precision)}
    if precision == "bf16":
        openvino = import_openvino()

        core = openvino.Core()
        properties = {"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "bf16"}
        request = core.compile_model(core.read_model(matmul_model("fp32"), b""), "CPU", properties)
        infer = request.create_infer_request()
        return lambda: infer.infer(feed, share_inputs=True)
    ort = import_onnxruntime()

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(matmul_model(precision), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feed)


def _activations(precision: str) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    if precision != "int8":
        return rng.standard_normal((SIDE, SIDE)).astype(np.float32)
    return rng.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)


def matmul_model(precision: str, side: int = SIDE) -> bytes:
    """A serialised ONNX model ``y = a @ b``, ``b`` constant ``[side, side]`` drawn from a fixed seed."""
    rng = np.random.default_rng(1)
    if precision == "fp32":
        weights: np.ndarray[Any, Any] = rng.standard_normal((side, side)).astype(np.float32)
        operator, a_type, b_type, y_type = "MatMul", _FLOAT, _FLOAT, _FLOAT
    else:
        # Seven bits, as reduced-range quantisation gives: without VNNI, onnxruntime's u8 x s8 kernels add pairs of
        # products in saturating 16 bits, and 255 x 127 x 2 would not fit. Values do not change the speed.
        weights = rng.integers(-63, 64, (side, side)).astype(np.int8)
        operator, a_type, b_type, y_type = "MatMulInteger", _UINT8, _INT8, _INT32
    dims = _number(1, side) + _number(1, side)
    tensor = dims + _number(2, b_type) + _bytes(8, b"b") + _bytes(9, weights.tobytes())
    node = _bytes(1, b"a") + _bytes(1, b"b") + _bytes(2, b"y") + _bytes(4, operator.encode())
    graph = (
        _bytes(1, node)
        + _bytes(2, b"matmul")
        + _bytes(5, tensor)
        + _bytes(11, _value_info("a", a_type, side))
        + _bytes(12, _value_info("y", y_type, side))
    )
    return _number(1, 8) + _bytes(8, _number(2, 13)) + _bytes(7, graph)  # IR version 8, opset 13


def _value_info(name: str, element: int, side: int) -> bytes:
    dimension = _bytes(1, _number(1, side))
    tensor_type = _number(1, element) + _bytes(2, dimension + dimension)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor_type))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload
