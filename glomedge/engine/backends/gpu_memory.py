"""A session whose tensors stay on the GPU: page-locked input, bound buffers, the next batch copied while one runs."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.engine.backends import onnxrt
from glomedge.engine.runner import Opened, RawOutput, no_cache
from glomedge.errors import EngineError
from glomedge.system import libraries
from glomedge.system.telemetry import import_onnxruntime

CUDA_LIBRARY = libraries.CUDA_LIBRARY


@dataclass
class _Slot:
    """Buffers of one batch size, at fixed addresses so that a captured graph can be replayed on them."""

    staging: npt.NDArray[np.uint8]
    images: Any
    outputs: list[Any]
    binding: Any


SLOTS = 2
"""Batches in hand: one runs, the next one's crops are copied to the device meanwhile."""


class DeviceRunner:
    """A session whose tensors live on the GPU; one run at a time, with the next batch on its way to the device.

    Each batch in hand has a slot: page-locked memory that its crops are gathered in, and bound buffers on the device.
    Gathering and copying take place outside the lock of the session, so two callers keep the device busy.

    Args:
        session: onnxruntime's.
        opened: what is reported of it.
        sizes: see ``Runner.batch_sizes``.
        device: onnxruntime's name for where the buffers are.
        forget: see ``Runner``.
        slots: batches in hand; 1 where a graph is captured, which is bound to the addresses of one slot.
    """

    def __init__(
        self,
        session: Any,
        opened: Opened,
        sizes: tuple[int, ...],
        device: str = "cuda",
        forget: Callable[[], bool] = no_cache,
        slots: int = SLOTS,
    ) -> None:
        self.inputs = tuple(onnxrt.tensor_info(argument) for argument in session.get_inputs())
        self.outputs = tuple(onnxrt.tensor_info(argument) for argument in session.get_outputs())
        self.opened = opened
        self.batch_sizes = sizes
        self._session = session
        self._device = device
        self._forget = forget
        self._slots = slots
        self._free: dict[int, list[_Slot]] = {}
        self._in_hand = threading.Semaphore(slots)
        self._taking = threading.Lock()
        self._running = threading.Lock()
        self._pinned = PinnedMemory()

    def run(self, images_nhwc: npt.NDArray[np.uint8]) -> RawOutput:
        """Copy in, run, copy out."""
        with self._in_hand:
            if self._session is None:
                raise EngineError("This engine is closed. Load the model again with glomedge.load.")
            try:
                slot = self._take(len(images_nhwc))
                try:
                    slot.staging[:] = images_nhwc
                    slot.images.update_inplace(slot.staging)
                    with self._running:
                        self._session.run_with_iobinding(slot.binding)
                    # Copied: the next run writes the same buffers.
                    probability, *maps = (np.array(output.numpy()) for output in slot.outputs)
                finally:
                    self._free[len(images_nhwc)].append(slot)
                return probability, maps[0] if maps else None
            except Exception as error:
                raise onnxrt.engine_error(error, len(images_nhwc)) from error

    def forget(self) -> bool:
        """See ``Runner``."""
        return self._forget()

    def close(self) -> None:
        """Free device and page-locked memory, after the batches in hand."""
        for _ in range(self._slots):
            self._in_hand.acquire()
        self._free.clear()
        self._session = None
        self._pinned.release()
        self._in_hand.release(self._slots)

    def _take(self, batch: int) -> _Slot:
        """A slot that no other caller uses; there are never more of one size than batches in hand."""
        with self._taking:
            free = self._free.setdefault(batch, [])
            return free.pop() if free else self._make_slot(batch)

    def _make_slot(self, batch: int) -> _Slot:
        ort = import_onnxruntime()

        def on_device(shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
            return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, self._device, 0)

        by_name = {tensor.name: tensor for tensor in (*self.inputs, *self.outputs)}

        def shape(name: str) -> tuple[int, ...]:
            # All sides but the batch are fixed: ``check_contract`` has seen to it.
            return (batch, *(side or 1 for side in by_name[name].shape[1:]))

        wanted = [name for name in onnxrt.OUTPUT_NAMES if name in by_name]
        binding = self._session.io_binding()
        slot = _Slot(
            staging=self._pinned.empty(shape("images")),
            images=on_device(shape("images"), np.uint8),
            outputs=[on_device(shape(name), np.float32) for name in wanted],
            binding=binding,
        )
        binding.bind_ortvalue_input("images", slot.images)
        for name, output in zip(wanted, slot.outputs, strict=True):
            binding.bind_ortvalue_output(name, output)
        return slot


class PinnedMemory:
    """Page-locked arrays (cudaHostRegister); ordinary ones where the CUDA runtime cannot lock memory."""

    def __init__(self) -> None:
        self._runtime = _cuda_runtime()
        self._locked: list[npt.NDArray[np.uint8]] = []

    def empty(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """A uint8 array of that shape, page-locked if possible."""
        array = np.zeros(shape, np.uint8)
        if self._runtime is not None:
            address, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
            if self._runtime.cudaHostRegister(address, size, ctypes.c_uint(0)) == 0:
                self._locked.append(array)
            else:
                # Taken away, or onnxruntime finds it after its next kernel and takes it for that kernel's failure.
                self._runtime.cudaGetLastError()
        return array

    def release(self) -> None:
        """Unlock all of them."""
        for array in self._locked:
            assert self._runtime is not None
            self._runtime.cudaHostUnregister(ctypes.c_void_p(array.ctypes.data))
        self._locked.clear()


def _cuda_runtime() -> ctypes.CDLL | None:
    """The CUDA runtime that the CUDA provider links against, already loaded by it."""
    folder = libraries.module_folder("onnxruntime")
    path = folder / "capi" / CUDA_LIBRARY if folder else Path(CUDA_LIBRARY)
    if not path.is_file():
        return None
    for name in libraries.needed_libraries(path):
        if name.startswith("libcudart."):
            try:
                return ctypes.CDLL(name)
            except OSError:
                return None
    return None
