"""A GPU session of one batch size, so that its CUDA graph is captured once and then replayed.

onnxruntime's documentation of the CUDA provider: "Multi-threaded usage is currently not supported, i.e. Run() MAY NOT
be invoked on the same InferenceSession object from multiple threads while using CUDA Graphs". Serial calls from several
threads do not work either: the provider keeps a captured graph for each thread (PerThreadContext,
cuda_execution_provider.h), and captures in a mode in which no other thread may allocate (cudaStreamCaptureModeGlobal,
cuda_graph.cc; NVIDIA's TensorRT-RTX plugin does the same). So a dedicated thread opens, runs and closes the session,
and callers queue.

A captured shape cannot shrink: where memory runs out, the session is reopened for half the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from glomedge.engine import selftest
from glomedge.engine.runner import OutOfMemoryError, RawOutput, Runner, SessionRequest, padded
from glomedge.errors import EngineError, ModelError
from glomedge.model.spec import BatchProfile


class FixedBatchRunner:
    """A Runner that gives its session only full batches: longer ones are split, shorter ones padded.

    Args:
        name: of the provider, for messages.
        open_session: the provider's factory; called again, with half the batch, when memory runs out.
        request: what to load; ``profile.max`` is the batch.

    Raises whatever ``open_session`` raises, except OutOfMemoryError: EngineError when there is no memory for one crop.
    """

    batch_sizes: tuple[int, ...] = ()

    def __init__(self, name: str, open_session: Callable[[SessionRequest], Runner], request: SessionRequest) -> None:
        self._name = name
        self._open_session = open_session
        self._request = request
        self._size = request.profile.max
        self._session: Runner | None = None
        self._notes: tuple[str, ...] = ()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fixed-batch")
        try:
            first = self._thread.submit(self._open_first).result()
        except BaseException:
            self._thread.shutdown()
            raise
        self.inputs, self.outputs = first.inputs, first.outputs

    def run(self, images_nhwc: npt.NDArray[np.uint8]) -> RawOutput:
        """Probability ``[N, 1]`` and activation ``[N, cells, cells]``; waits for the calls before it.

        Raises:
            EngineError: closed, device lost, or out of memory at a batch of one.
            ModelError: the session for half the batch fails the self-test.
        """
        try:
            answer = self._thread.submit(self._run, images_nhwc)
        except RuntimeError as error:
            raise EngineError("This engine is closed. Load the model again with glomedge.load.") from error
        return answer.result()

    def forget(self) -> bool:
        """See ``Runner``."""
        session = self._session
        return session is not None and session.forget()

    def close(self) -> None:
        """Free the device, after all queued calls."""
        self._thread.submit(self._close).result()
        self._thread.shutdown()

    # What follows runs on the session's thread.

    def _open_first(self) -> Runner:
        """The session for the whole batch, or for the largest half of a half of it that can be opened."""
        while True:
            try:
                return self._open()
            except OutOfMemoryError as error:
                self._halve(error)

    def _run(self, images: npt.NDArray[np.uint8]) -> RawOutput:
        probability = np.empty((len(images), 1), np.float32)
        shape = self._request.file.spec.map_shape
        activation = None if shape is None else np.empty((len(images), *shape), np.float32)
        start = 0
        while start < len(images):
            part = images[start : start + self._size]
            try:
                if self._session is None:
                    self._reopen()
                answer = self._run_whole(part)
            except OutOfMemoryError as error:
                # Reopened in the next round, not here: the error's traceback holds the old session's buffers.
                self._halve(error)
                continue
            probability[start : start + len(part)] = answer[0]
            if activation is not None:
                activation[start : start + len(part)] = answer[1]
            start += len(part)
        return probability, activation

    def _run_whole(self, images: npt.NDArray[np.uint8]) -> RawOutput:
        """The session's answers for at most one batch, run as a full one."""
        assert self._session is not None
        probability, activation = self._session.run(padded(images, self._size))
        return probability[: len(images)], None if activation is None else activation[: len(images)]

    def _halve(self, error: OutOfMemoryError) -> None:
        """Free the memory for the session with half the batch."""
        self._close()
        if self._size == 1:
            raise EngineError(
                f"{error} A smaller batch is not possible. Free memory on the device (nvidia-smi shows who uses it) or "
                "use --provider cpu."
            ) from error
        half = self._size // 2
        self._notes += (f"out of memory at a fixed batch of {self._size}: reopened for {half}",)
        self._size = half

    def _open(self) -> Runner:
        profile = BatchProfile(min=self._size, opt=self._size, max=self._size)
        session = self._session = self._open_session(replace(self._request, profile=profile))
        self.opened = replace(session.opened, notes=(*session.opened.notes, *self._notes))
        return session

    def _reopen(self) -> None:
        """Another batch is another engine: it must pass the self-test before it answers in the middle of a run."""
        session, spec = self._open(), self._request.file.spec
        if not self._request.self_test:
            return
        try:
            selftest.contract_test(spec, session, self._request.file.path)
            where = f"provider {self._name} at a fixed batch of {self._size}"
            selftest.self_test(spec, session, self._run_whole, where=where)
        except ModelError:
            self._close()
            raise

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
