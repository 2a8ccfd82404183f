"""The interface between an Engine and a runtime: the request to open a session, and the open session.

A Runner holds one loaded model on one provider. The implementations are in ``backends/``; the Engine knows only this
interface.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glomedge.errors import EngineError, ModelError
from glomedge.model.file import ModelFile
from glomedge.model.spec import BatchProfile, ModelSpec

RawOutput = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]
"""Probability and activation of a batch; no activation where the graph has no such output (``ModelSpec.map``)."""


def no_cache() -> bool:
    """``Runner.forget`` of a session that uses no cache."""
    return False


class OutOfMemoryError(EngineError):
    """The device has no memory left for a batch of this size; the Engine halves it and tries again."""


@dataclass(frozen=True)
class SessionRequest:
    """Everything a session factory needs.

    Attributes:
        file: the checked model file.
        threads: CPU threads to use in all.
        concurrency: how many threads will call ``run`` at once.
        profile: batch sizes the session must serve (min, typical, max).
        fixed_batch: every run has exactly ``profile.max`` crops; lets a GPU capture the whole run.
        self_test: whether a session that replaces another must pass the golden self-test.
        record_placement: count on which provider every node of the graph lands.
        bf16: compute an fp32 file in bfloat16 where the provider can.
        cache_dir: owner-only folder for engines, or None for the user's cache.
        shares_cpus: whether other threads compute at the same time, as a server's decoders do.
    """

    file: ModelFile
    threads: int
    concurrency: int
    profile: BatchProfile
    fixed_batch: bool = False
    self_test: bool = True
    record_placement: bool = False
    bf16: bool = False
    cache_dir: Path | None = None
    shares_cpus: bool = False


@dataclass(frozen=True)
class TensorInfo:
    """Name, dtype (numpy's name) and shape of a graph input or output; None where a side is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Opened:
    """What a runner reports once it is open.

    Attributes:
        precision: what is computed in: the file's, or ``bf16``.
        versions: of every library that takes part.
        options: those really given to the session.
        placement: nodes of the graph by the name of the provider that runs them; empty when not recorded.
        strays: ``name (type)`` of nodes that run on another provider than the one asked for.
        notes: sentences for the user.
    """

    precision: str
    versions: Mapping[str, str]
    options: Mapping[str, str]
    placement: Mapping[str, int] = field(default_factory=dict)
    strays: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Runner(Protocol):
    """One model, loaded on one provider. ``run`` may be called from ``concurrency`` threads at once."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opened: Opened
    batch_sizes: tuple[int, ...]
    """The only batch sizes that may be run, ascending: every batch is padded to the largest, or to the next smaller one
    where memory has run out. Empty when any size is allowed."""

    def run(self, images_nhwc: npt.NDArray[np.uint8]) -> RawOutput:
        """Probability ``[N, 1]`` and activation ``[N, cells, cells]``. Raises OutOfMemoryError, EngineError."""

    def forget(self) -> bool:
        """Remove its engine from the cache because it gives wrong answers. Called before ``close``.

        True when that engine came from the cache; False when it was built here, or there is none.
        """

    def close(self) -> None:
        """Free the device."""


def padded(images_nhwc: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """The batch, padded with black crops to ``size``; unchanged where it is that long already."""
    if len(images_nhwc) >= size:
        return images_nhwc
    longer = np.zeros((size, *images_nhwc.shape[1:]), np.uint8)
    longer[: len(images_nhwc)] = images_nhwc
    return longer


def check_contract(runner: Runner, spec: ModelSpec, path: Path | os.PathLike[str]) -> None:
    """Compare the inputs and outputs of the loaded graph with the contract. Raises ModelError naming the field."""
    expected_input = TensorInfo(
        spec.input.name, spec.input.dtype, (None, spec.input.height_px, spec.input.width_px, len("RGB"))
    )
    expected_outputs: tuple[TensorInfo, ...] = (TensorInfo("probability", "float32", (None, 1)),)
    if spec.map_shape is not None:
        expected_outputs += (TensorInfo("activation", "float32", (None, *spec.map_shape)),)
    _compare(path, "input", (expected_input,), runner.inputs)
    _compare(path, "output", expected_outputs, runner.outputs)


def _compare(
    path: Path | os.PathLike[str], kind: str, expected: tuple[TensorInfo, ...], found: tuple[TensorInfo, ...]
) -> None:
    hint = "The spec and the graph disagree. Export the model again with: glomedge export"
    by_name = {tensor.name: tensor for tensor in found}
    if set(by_name) != {tensor.name for tensor in expected}:
        raise ModelError(
            f"{os.fspath(path)}: {kind} name: the graph has {', '.join(sorted(by_name)) or 'none'}, the contract "
            f"requires {', '.join(tensor.name for tensor in expected)}. {hint}"
        )
    for tensor in expected:
        actual = by_name[tensor.name]
        if actual.dtype != tensor.dtype:
            raise ModelError(
                f"{os.fspath(path)}: {kind} '{tensor.name}' dtype: the graph has {actual.dtype}, the contract requires "
                f"{tensor.dtype}. {hint}"
            )
        # A side that is fixed in the contract must be fixed to the same number; the batch must be left open.
        if len(actual.shape) != len(tensor.shape) or actual.shape != tensor.shape:
            raise ModelError(
                f"{os.fspath(path)}: {kind} '{tensor.name}' shape: the graph has {_shape(actual)}, the contract "
                f"requires {_shape(tensor)}. {hint}"
            )


def _shape(tensor: TensorInfo) -> str:
    return "[" + ", ".join("N" if side is None else str(side) for side in tensor.shape) + "]"
