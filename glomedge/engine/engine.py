"""Engine: one loaded model on one provider; ``loading.load`` makes it.

with load("model.onnx", provider="cpu") as engine:
    output = engine.infer(images_nhwc)
    predictions = engine.predict(["a.png", rgb_array])
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import NoReturn, Self

import numpy as np
import numpy.typing as npt

from glomedge.engine.items import Item
from glomedge.engine.predict import Prediction, predict_all
from glomedge.engine.runner import OutOfMemoryError, RawOutput, Runner, padded
from glomedge.errors import EngineError, UsageError
from glomedge.model.file import ModelFile
from glomedge.model.spec import ModelSpec

__all__ = ["Engine", "Output", "Prediction", "Runtime"]


@dataclass(frozen=True)
class Output:
    """The network's answers for N crops.

    Attributes:
        probability: float32 ``[N]``, the chance of *globally sclerotic*; may hold NaN or Inf from broken weights.
        activation: float32 ``[N, cells, cells]`` (7 x 7 for ResNet50V2 at 224 px), the class-activation map; its mean
            is the logit before temperature. None for a network without an exact map (``spec.map``).
    """

    probability: npt.NDArray[np.float32]
    activation: npt.NDArray[np.float32] | None

    def __post_init__(self) -> None:
        n, maps = len(self.probability), self.activation
        if self.probability.shape != (n,) or (maps is not None and (maps.ndim != 3 or len(maps) != n)):
            raise ValueError(f"probability {self.probability.shape}, activation {getattr(maps, 'shape', None)}")


@dataclass(frozen=True)
class Runtime:
    """What runs the model, for the record of a run.

    Attributes:
        requested: the provider that was asked for (``auto`` included).
        provider: the one that runs.
        precision: what is computed in: fp32, fp16, int8 or bf16.
        threads: CPU threads in all.
        concurrency: callers at once.
        versions: of the libraries that take part.
        options: the session's settings.
        placement: nodes by provider; empty unless it was recorded.
        notes: what its user should know: the choice of ``auto``, any fallback.
        passed_over: why ``auto`` or a fallback took none of the providers before and after.
    """

    requested: str
    provider: str
    precision: str
    threads: int
    concurrency: int
    versions: Mapping[str, str]
    options: Mapping[str, str]
    placement: Mapping[str, int]
    notes: tuple[str, ...]
    passed_over: tuple[str, ...] = ()


class Engine:
    """One loaded model on one provider; made by ``load``. ``infer`` may be called from several threads."""

    def __init__(self, file: ModelFile, runner: Runner, runtime: Runtime, max_batch: int) -> None:
        self._file = file
        self._runner: Runner | None = runner
        self._runtime = runtime
        self._limit = max(runner.batch_sizes, default=max_batch)
        self._lock = threading.Lock()
        side_px = file.spec.input.side_px
        self._crop_shape = (side_px, side_px, 3)
        self._map_shape = file.spec.map_shape

    @property
    def spec(self) -> ModelSpec:
        """The contract that the model file carries."""
        return self._file.spec

    @property
    def file(self) -> ModelFile:
        """The model file: path, SHA-256, size."""
        return self._file

    @property
    def provider(self) -> str:
        """Short name of the provider that really runs."""
        return self._runtime.provider

    @property
    def runtime(self) -> Runtime:
        """Versions, options and notes, for the record of a run."""
        runner = self._runner
        # A session reopened in the middle of a run has more notes than at first.
        late = runner.opened.notes if runner is not None else ()
        return replace(self._runtime, notes=tuple(dict.fromkeys((*self._runtime.notes, *late))))

    def infer(self, images_nhwc: npt.NDArray[np.uint8]) -> Output:
        """Run the network.

        Args:
            images_nhwc: uint8 ``[N, side, side, 3]``, RGB, already enhanced, ``side`` that of the model
                (``spec.input.side_px``); any N >= 1. Longer batches than the session takes are split, and for sessions
                of fixed shape the last one is padded.

        Raises:
            UsageError: another dtype or shape.
            EngineError: closed, out of memory at a batch of one, device lost.
        """
        if (
            images_nhwc.dtype != np.uint8
            or images_nhwc.ndim != 4
            or images_nhwc.shape[0] < 1
            or images_nhwc.shape[1:] != self._crop_shape
        ):
            side_px = self._crop_shape[0]
            raise UsageError(
                f"infer takes uint8 [N, {side_px}, {side_px}, 3] with N >= 1, not {images_nhwc.dtype} "
                f"{list(images_nhwc.shape)}. Pass crops through glomedge.enhance(crop, engine.spec.recipe) first."
            )
        total = len(images_nhwc)
        probability = np.empty(total, np.float32)
        activation = None if self._map_shape is None else np.empty((total, *self._map_shape), np.float32)
        start = 0
        while start < total:
            # Read again each round: another thread may have lowered the limit.
            limit = self._limit
            count = min(limit, total - start)
            try:
                part = self._run(np.ascontiguousarray(images_nhwc[start : start + count]), limit)
            except OutOfMemoryError as error:
                self._shrink(count, limit, error)
                continue
            probability[start : start + count] = part[0].reshape(-1)[:count]
            if activation is not None:
                assert part[1] is not None  # ``check_contract``
                activation[start : start + count] = part[1][:count]
            start += count
        return Output(probability, activation)

    def predict(self, items: Item | Iterable[Item]) -> list[Prediction]:
        """Decode, enhance and call each crop; one crop by itself is answered by a list of one.

        Args:
            items: crops not yet enhanced, each of them
                a path (str, bytes or ``os.PathLike``; links are followed),
                RGB pixels, uint8 ``[H, W, 3]``,
                a PIL image, or
                the bytes of an image file (bytes, bytearray or memoryview).
                An array ``[N, H, W, 3]`` is N crops.

        An item that cannot be read becomes a Prediction with status ``error:<code>``; it never stops the others.
        """
        return predict_all(self, self.spec, items)

    def close(self) -> None:
        """Free the device. Calling it twice is harmless; ``infer`` raises afterwards."""
        with self._lock:
            self._runtime = self.runtime
            runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "An Engine holds a session on a device and cannot be pickled or copied. Hand over the path of the model, "
            "and call glomedge.load in each process."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, images: npt.NDArray[np.uint8], limit: int) -> RawOutput:
        runner = self._runner
        if runner is None:
            raise EngineError("This engine is closed. Load the model again with glomedge.load.")
        # Another size would cost a search for kernels at each change: one size, whatever is asked.
        return runner.run(padded(images, limit if runner.batch_sizes else 1))

    def _shrink(self, count: int, limit: int, error: OutOfMemoryError) -> None:
        """Halve the batch for this and every later run; to the next smaller size where sizes are fixed."""
        runner = self._runner
        sizes = runner.batch_sizes if runner is not None else ()
        smaller = max((size for size in sizes if size < limit), default=0) if sizes else count // 2
        if smaller < 1:
            raise EngineError(
                f"{error} A smaller batch is not possible. Free memory on the device (nvidia-smi shows who uses it), "
                "load with a smaller max_batch (--max-batch), or on the CPU (--provider cpu)."
            ) from error
        with self._lock:
            self._limit = min(self._limit, smaller)
