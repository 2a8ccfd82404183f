"""The CPU in place of a card, so that every line of ``benchmarks/gpu.py`` runs on a machine without one.

The providers keep their names and the batches that they pad to; behind them is onnxruntime's CPU provider with its
cache of optimised graphs as the engine cache, and memory that can be made short.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.engine import providers
from glomedge.engine.backends import nvidia, onnxrt
from glomedge.engine.runner import OutOfMemoryError, RawOutput, Runner, SessionRequest

STAND_IN_FOR = ("cuda", "tensorrt")
FITS = 4
"""Crops at once that still fit while memory is short."""

_short: list[bool] = []


class StandIn:
    """A CPU session with the batch sizes of a GPU's; out of memory above ``FITS`` while memory is short."""

    def __init__(self, session: Runner, sizes: tuple[int, ...]) -> None:
        self._session = session
        self.inputs, self.outputs = session.inputs, session.outputs
        self.opened, self.batch_sizes = session.opened, sizes

    def run(self, images_nhwc: npt.NDArray[np.uint8]) -> RawOutput:
        """See ``Runner``."""
        if _short and len(images_nhwc) > FITS:
            raise OutOfMemoryError(f"Out of memory at a batch of {len(images_nhwc)}: the rehearsal's card is full.")
        return self._session.run(images_nhwc)

    def forget(self) -> bool:
        """See ``Runner``."""
        return self._session.forget()

    def close(self) -> None:
        """See ``Runner``."""
        self._session.close()


def install() -> None:
    """Let the CPU stand in, in this process. Small files are cached as well."""
    onnxrt.WORTH_COPYING_BYTES = 0
    for name in STAND_IN_FOR:
        changed: dict[str, Any] = {"unusable": lambda: None, "open": _open}
        providers.PROVIDERS[name] = replace(providers.PROVIDERS[name], **changed)


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """The card is nearly full while the block runs."""
    _short.append(True)
    try:
        yield
    finally:
        _short.pop()


def _open(request: SessionRequest) -> Runner:
    return StandIn(onnxrt.open_cpu(request), nvidia.batch_sizes(request))
