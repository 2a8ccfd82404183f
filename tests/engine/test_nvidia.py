"""The NVIDIA code that can be tested without a GPU: bound buffers on a real session, page-locking, cache keys."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glomedge.engine import engine
from glomedge.engine.backends import gpu_memory, nvidia, nvidia_options, onnxrt
from glomedge.engine.backends.gpu_memory import DeviceRunner, PinnedMemory
from glomedge.engine.cache import EngineKey
from glomedge.engine.runner import Opened, SessionRequest
from glomedge.errors import EngineError
from glomedge.model.file import read_model_file
from glomedge.model.spec import BatchProfile
from glomedge.system import gpu as gpus
from glomedge.system import tf32
from helpers import builders
from helpers.stand_ins import compiled

SIZES = (1, 4, 16)


@pytest.fixture
def request_(tiny_model: Path) -> SessionRequest:
    return SessionRequest(
        file=read_model_file(tiny_model), threads=1, concurrency=1, profile=BatchProfile(min=1, opt=4, max=16)
    )


@pytest.fixture(scope="module")
def cuda_runtime(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return ctypes.CDLL(str(compiled("fake_cudart.c", tmp_path_factory.mktemp("cuda") / "libcudart.so.13")))


@pytest.fixture
def runner(request_: SessionRequest) -> DeviceRunner:
    """The runner of the GPU providers, bound to host memory of a CPU session: the same calls in the same order."""
    session = onnxrt.create_session(request_, [(onnxrt.CPU, {})], onnxrt.session_options(request_))
    return DeviceRunner(session, Opened("fp32", {}, {}), SIZES, device="cpu")


def test_bound_buffers_give_the_answers_of_the_reference(runner: DeviceRunner, request_: SessionRequest) -> None:
    runtime = engine.Runtime("cuda", "cuda", "fp32", 1, 1, {}, {}, {}, ())
    images = np.random.default_rng(1).integers(0, 256, (23, 224, 224, 3), np.uint8)
    expected = 1 / (1 + np.exp(-builders.tiny_logit(images)))
    with engine.Engine(request_.file, runner, runtime, 16) as model, ThreadPoolExecutor(4) as pool:
        # Several threads share the buffers of each size; no run may see another's crops or answers.
        for output in pool.map(model.infer, [images] * 8):
            np.testing.assert_allclose(output.probability, expected, atol=1e-5)
        model.infer(images[:3])
        # One size, and never more buffers than batches in hand.
        assert list(runner._free) == [16]
        assert 1 <= len(runner._free[16]) <= 2


class HeldSession:
    """A real session that begins each run only when it is let, as a device that is still busy does."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.begun, self.let = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any) -> None:
        self.begun.set()
        assert self.let.wait(60)
        self._session.run_with_iobinding(binding)


class WatchedRunner(DeviceRunner):
    """The GPU providers' own runner; ``made`` are its buffers in the order in which they were made."""

    def _make_slot(self, batch: int) -> Any:
        slot = super()._make_slot(batch)
        self.__dict__.setdefault("made", []).append(slot)
        return slot


@pytest.mark.parametrize(("slots", "staged"), [(2, True), (1, False)])
def test_the_next_batch_is_copied_while_one_runs(request_: SessionRequest, slots: int, staged: bool) -> None:
    real = onnxrt.create_session(request_, [(onnxrt.CPU, {})], onnxrt.session_options(request_))
    session = HeldSession(real)
    runner = WatchedRunner(session, Opened("fp32", {}, {}), (4,), device="cpu", slots=slots)
    dark, light = (np.full((4, 224, 224, 3), value, np.uint8) for value in (20, 230))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(runner.run, dark)
        assert session.begun.wait(60)
        second = pool.submit(runner.run, light)

        def on_device() -> bool:
            made = runner.__dict__["made"]
            return len(made) == 2 and bool((made[1].images.numpy() == light).all())

        # A copy that is to come takes a moment; one that must not come is waited for half a second.
        until = time.monotonic() + (60 if staged else 0.5)
        while not on_device() and time.monotonic() < until:
            time.sleep(0.01)
        assert on_device() is staged
        assert not first.done()
        session.let.set()
        for answer, images in ((first, dark), (second, light)):
            np.testing.assert_allclose(
                answer.result()[0][:, 0], 1 / (1 + np.exp(-builders.tiny_logit(images))), atol=1e-5
            )
    runner.close()


def test_closing_waits_for_the_batches_in_hand(request_: SessionRequest) -> None:
    real = onnxrt.create_session(request_, [(onnxrt.CPU, {})], onnxrt.session_options(request_))
    session = HeldSession(real)
    runner = DeviceRunner(session, Opened("fp32", {}, {}), (4,), device="cpu")
    images = np.full((4, 224, 224, 3), 130, np.uint8)
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(runner.run, images)
        assert session.begun.wait(60)
        closed = pool.submit(runner.close)
        assert not closed.done()
        session.let.set()
        closed.result()
        assert answer.result()[0].shape == (4, 1)


def test_answers_are_copies_of_the_shared_buffers(runner: DeviceRunner) -> None:
    dark, light = (np.full((1, 224, 224, 3), value, np.uint8) for value in (20, 230))
    first = runner.run(dark)
    before = first[0].copy()
    runner.run(light)
    np.testing.assert_array_equal(first[0], before)


def test_a_closed_runner_raises_an_engine_error(runner: DeviceRunner) -> None:
    runner.close()
    with pytest.raises(EngineError):
        runner.run(np.zeros((1, 224, 224, 3), np.uint8))


def test_page_locked_memory_is_usable_with_or_without_a_gpu() -> None:
    pinned = PinnedMemory()
    array = pinned.empty((4, 224, 224, 3))
    array[:] = 7
    assert (array == 7).all()
    assert array.flags.c_contiguous
    pinned.release()
    assert (array == 7).all()


@pytest.mark.parametrize(("locked", "error"), [(1, 0), (0, 0)])
def test_what_cannot_be_page_locked_leaves_no_error_behind(
    monkeypatch: pytest.MonkeyPatch, cuda_runtime: ctypes.CDLL, locked: int, error: int
) -> None:
    cuda_runtime.fake_lock(locked)
    monkeypatch.setattr(gpu_memory, "_cuda_runtime", lambda: cuda_runtime)
    pinned = PinnedMemory()
    array = pinned.empty((4, 8, 8, 3))
    array[:] = 7
    assert cuda_runtime.fake_locked_bytes() == (array.nbytes if locked else 0)
    assert cuda_runtime.cudaPeekAtLastError() == error
    pinned.release()
    assert cuda_runtime.fake_locked_bytes() == 0
    assert cuda_runtime.cudaPeekAtLastError() == error


def key(
    request: SessionRequest, folder: str = "folder", provider: str = "tensorrt", runtime: str = "10.13.3"
) -> EngineKey:
    return nvidia.engine_key(request, provider, runtime, nvidia_options.tensorrt_options(request, folder))


def test_the_key_does_not_depend_on_where_the_cache_lies(request_: SessionRequest) -> None:
    elsewhere = nvidia.engine_key(
        request_, "tensorrt", "10.13.3", nvidia_options.tensorrt_options(request_, "elsewhere")
    )
    assert key(request_) == elsewhere


def test_the_key_follows_weights_shapes_precision_and_options(tmp_path: Path, request_: SessionRequest) -> None:
    def other_file(**changes: object) -> SessionRequest:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        builders.build_tiny_model(path, **changes)  # type: ignore[arg-type]  # a table of keyword arguments
        return SessionRequest(read_model_file(path), 1, 1, request_.profile)

    variants = [
        request_,
        other_file(bias=-4.1),
        other_file(precision="fp16"),
        other_file(threshold=0.6),
        SessionRequest(request_.file, 1, 1, BatchProfile(min=1, opt=4, max=32)),
        SessionRequest(request_.file, 1, 1, BatchProfile(min=1, opt=8, max=16)),
        SessionRequest(request_.file, 1, 1, request_.profile, fixed_batch=True),
    ]
    digests = {key(request).digest() for request in variants}
    digests.add(
        nvidia.engine_key(request_, "tensorrt-rtx", "10.13.3", nvidia_options.tensorrt_options(request_, "f")).digest()
    )
    digests.add(
        nvidia.engine_key(request_, "tensorrt", "10.14.0", nvidia_options.tensorrt_options(request_, "f")).digest()
    )
    assert len(digests) == len(variants) + 2


def test_the_key_follows_the_passes_that_must_not_run_and_tf32(
    monkeypatch: pytest.MonkeyPatch, request_: SessionRequest
) -> None:
    monkeypatch.setenv(tf32.VARIABLE, "0")
    digests = {key(request_).digest()}
    monkeypatch.setenv(tf32.VARIABLE, "1")
    digests.add(key(request_).digest())
    monkeypatch.setattr(nvidia_options, "DISABLED_FOR_PARSER", ("Pad_Fusion",))
    digests.add(key(request_).digest())
    assert len(digests) == 3


L4, A2000 = gpus.Gpu("NVIDIA L4", "8.9", 24 << 30), gpus.Gpu("NVIDIA RTX A2000", "8.6", 12 << 30)


def test_the_key_follows_gpu_driver_and_onnxruntime(monkeypatch: pytest.MonkeyPatch, request_: SessionRequest) -> None:
    def on(device: gpus.Gpu | None, driver: str = "570.86", onnxruntime: str = "1.31.1") -> str:
        monkeypatch.setattr(nvidia, "session_gpu", lambda: device)
        monkeypatch.setattr(nvidia, "find_gpus", lambda: gpus.Gpus(driver, (A2000, L4)))
        monkeypatch.setattr("onnxruntime.__version__", onnxruntime)
        return key(request_).digest()

    assert on(L4) == on(L4)
    digests = [
        on(L4),
        on(A2000),
        on(replace(L4, compute_capability="9.0")),
        on(replace(L4, name="NVIDIA L40")),
        on(None),
        on(L4, driver="570.87"),
        on(L4, onnxruntime="1.32.0"),
    ]
    assert len(set(digests)) == len(digests)


class FakeCuda:
    """The CUDA driver's library on a machine of these GPUs (in PCI order): the calls that ``session_gpu`` makes."""

    def __init__(self, *in_pci_order: gpus.Gpu) -> None:
        self._all = in_pci_order
        self._seen: list[gpus.Gpu] = []

    def cuInit(self, _flags: ctypes.c_uint) -> int:
        # CUDA C++ Programming Guide, "CUDA environment variables": order first, then what is visible of it.
        order = list(self._all)
        if os.environ.get("CUDA_DEVICE_ORDER", "FASTEST_FIRST") == "FASTEST_FIRST":
            order.sort(key=lambda gpu: -gpu.memory_bytes)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        self._seen = order if visible is None else [order[int(index)] for index in visible.split(",") if index]
        return 0 if self._seen else 100

    def cuDeviceGet(self, device: Any, ordinal: ctypes.c_int) -> int:
        device._obj.value = ordinal.value
        return 0

    def cuDeviceGetName(self, buffer: Any, _size: ctypes.c_int, device: ctypes.c_int) -> int:
        buffer.value = self._seen[device.value].name.encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: ctypes.c_int, device: ctypes.c_int) -> int:
        # cuda.h: 75 and 76 are the halves of the compute capability.
        value._obj.value = int(self._seen[device.value].compute_capability.split(".")[attribute.value - 75])
        return 0

    def cuDeviceTotalMem_v2(self, value: Any, device: ctypes.c_int) -> int:
        value._obj.value = self._seen[device.value].memory_bytes
        return 0


@pytest.mark.parametrize(
    ("order", "visible", "expected"),
    [
        (None, None, L4),
        ("FASTEST_FIRST", None, L4),
        ("PCI_BUS_ID", None, A2000),
        (None, "1", A2000),
        ("PCI_BUS_ID", "1", L4),
        ("PCI_BUS_ID", "1,0", L4),
        (None, "", None),
    ],
)
def test_the_gpu_of_a_session_is_the_one_that_cuda_counts_as_0(
    monkeypatch: pytest.MonkeyPatch, order: str | None, visible: str | None, expected: gpus.Gpu | None
) -> None:
    for name, value in (("CUDA_DEVICE_ORDER", order), ("CUDA_VISIBLE_DEVICES", visible)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(gpus, "_library", lambda *_: FakeCuda(A2000, L4))
    assert gpus.session_gpu() == expected


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_library", lambda *_: None)
    assert gpus.session_gpu() is None
    assert gpus.session_pci_bus_id() == ""


@pytest.mark.gpu
@pytest.mark.skipif(not gpus.find_gpus().devices, reason="needs an NVIDIA GPU")
def test_cuda_and_nvml_say_the_same_of_a_real_gpu() -> None:
    found = gpus.session_gpu()
    if found is None:
        pytest.skip("CUDA sees no GPU here (CUDA_VISIBLE_DEVICES?)")
    # CUDA puts the slice behind the name where a GPU is cut up (MIG).
    assert any(
        found.name.startswith(gpu.name) and found.compute_capability == gpu.compute_capability
        for gpu in gpus.find_gpus().devices
    )


def test_threads_do_not_change_the_key(request_: SessionRequest) -> None:
    assert key(SessionRequest(request_.file, 8, 4, request_.profile)) == key(request_)
