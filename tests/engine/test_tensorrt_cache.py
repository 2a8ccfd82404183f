"""TensorRT's session and the engine cache: what it finds there, cannot read, or writes beside.

The session is a real one of onnxruntime's CPU provider. In TensorRT's place stands what its provider does with files
(tensorrt_execution_provider.cc): it reads the engine and the timings that it finds by name, fails with these words
where it cannot, and writes both after a build.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from glomedge.engine.backends import nvidia, onnxrt
from glomedge.engine.cache import PASSPORT
from glomedge.engine.runner import OutOfMemoryError, SessionRequest
from glomedge.errors import OutputError, ProviderUnavailableError
from helpers.wheels import request_for

_ENGINE, _TIMINGS = "glomedge_{name}_sm89.engine", "TensorrtExecutionProvider_cache_sm89.timing"


@dataclass
class _Builder:
    """Attributes: what the provider was asked to do so far, and what it does next."""

    done: list[str]
    fails: Callable[[], Exception | None] = lambda: None


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> _Builder:
    builder = _Builder([])
    real = onnxrt.create_session

    def create(request: SessionRequest, providers: list[tuple[str, dict[str, str]]], options: Any) -> Any:
        chosen = providers[0][1]
        engine = Path(chosen["trt_engine_cache_path"]) / _ENGINE.format(name=request.file.path.stem)
        timed = chosen["trt_timing_cache_enable"] == "1"
        assert timed == bool(chosen["trt_timing_cache_path"])
        timings = Path(chosen["trt_timing_cache_path"] or "nowhere") / _TIMINGS
        if (error := builder.fails()) is not None:
            raise error
        for path, words in (
            (engine, "TensorRT EP could not deserialize engine from cache"),
            (timings, "TensorRT EP could not create timing cache"),
        ):
            if path.exists() and path.read_bytes() == b"torn":
                builder.done.append(f"could not read {path.suffix}")
                raise ProviderUnavailableError(f"{words}: {path}.")
        if engine.exists():
            builder.done.append("read")
        else:
            builder.done.append("built with timings" if timings.exists() else "built")
            engine.write_bytes(b"engine")
            if timed:
                timings.write_bytes(b"timings")
        return real(request, [(onnxrt.CPU, {})], options)

    monkeypatch.setattr(onnxrt, "create_session", create)
    monkeypatch.setattr(nvidia, "TENSORRT", onnxrt.CPU)
    return builder


@pytest.fixture
def request_(tiny_model: Path, tmp_path: Path) -> SessionRequest:
    return request_for(tiny_model, cache_dir=tmp_path / "cache")


def notes(request: SessionRequest) -> str:
    runner = nvidia.open_tensorrt(request)
    runner.close()
    return runner.opened.notes[0]


def torn(request: SessionRequest, pattern: str) -> None:
    """A file of the cache that was cut short before its hash was taken: its passport agrees with it."""
    assert request.cache_dir is not None
    path = next(request.cache_dir.rglob(pattern))
    passport = path.parent / PASSPORT
    before = _sha256(path)
    path.write_bytes(b"torn")
    if passport.exists():
        passport.write_text(passport.read_text().replace(before, _sha256(path)))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_engine_is_built_once_and_its_timings_serve_the_next(builder: _Builder, request_: SessionRequest) -> None:
    assert notes(request_).startswith("engine built")
    assert notes(request_) == "engine taken from the cache"
    larger = replace(request_, profile=request_.profile.model_copy(update={"max": 64}))
    assert notes(larger).startswith("engine built")
    assert builder.done == ["built", "read", "built with timings"]


def test_an_engine_that_cannot_be_read_is_replaced_in_the_same_start(
    builder: _Builder, request_: SessionRequest
) -> None:
    notes(request_)
    torn(request_, "*.engine")
    assert "could not deserialize engine from cache" in notes(request_)
    assert notes(request_) == "engine taken from the cache"
    assert builder.done == ["built", "could not read .engine", "built", "read"]


def test_timings_that_cannot_be_read_are_replaced_in_the_same_start(
    builder: _Builder, request_: SessionRequest
) -> None:
    notes(request_)
    torn(request_, "*.timing")
    larger = replace(request_, profile=request_.profile.model_copy(update={"max": 64}))
    assert notes(larger).startswith("engine built")
    assert builder.done == ["built", "could not read .timing", "built"]


def test_a_failure_that_is_not_the_caches_is_tried_once_more_and_costs_no_engine(
    builder: _Builder, request_: SessionRequest
) -> None:
    notes(request_)
    tries: list[str] = []

    def lost() -> Exception:
        tries.append("")
        return ProviderUnavailableError("CUDA failure 999: unknown error.")

    builder.fails = lost
    with pytest.raises(ProviderUnavailableError, match="CUDA failure 999"):
        nvidia.open_tensorrt(request_)
    assert len(tries) == 2
    builder.fails = lambda: None
    assert notes(request_) == "engine taken from the cache"


def test_memory_that_ran_out_is_no_reason_to_build_again(builder: _Builder, request_: SessionRequest) -> None:
    notes(request_)
    tries: list[str] = []

    def full() -> Exception:
        tries.append("")
        return OutOfMemoryError("There is not enough memory to load it.")

    builder.fails = full
    with pytest.raises(OutOfMemoryError):
        nvidia.open_tensorrt(request_)
    assert len(tries) == 1


def test_a_renamed_model_has_an_engine_of_its_own_and_spoils_none(
    builder: _Builder, request_: SessionRequest, tmp_path: Path
) -> None:
    """The provider names its engine by the file's name, and so does not find one that was built under another."""
    renamed = tmp_path / "renamed.onnx"
    renamed.write_bytes(request_.file.path.read_bytes())
    other = request_for(renamed, cache_dir=request_.cache_dir)
    assert other.file.sha256 == request_.file.sha256
    for request in (request_, other, request_, other):
        notes(request)
    assert builder.done == ["built", "built with timings", "read", "read"]


def test_a_prepared_engine_opens_from_a_cache_that_cannot_be_written_to(
    builder: _Builder, request_: SessionRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = nvidia.open_tensorrt(request_)
    built.close()
    no_new_folders(monkeypatch, 0)
    found = nvidia.open_tensorrt(request_)
    found.close()
    assert found.opened.notes[0] == "engine taken from the cache"
    assert found.opened.options == built.opened.options
    assert builder.done == ["built", "read"]
    other = replace(request_, profile=request_.profile.model_copy(update={"max": 64}))
    with pytest.raises(
        OutputError, match=r"cannot be written to: Read-only file system\. Name another with --cache-dir"
    ):
        nvidia.open_tensorrt(other)


def test_without_room_for_timings_the_engine_is_built_without(
    builder: _Builder, request_: SessionRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_new_folders(monkeypatch, 1)
    assert notes(request_).startswith("engine built")
    assert notes(request_) == "engine taken from the cache"
    assert builder.done == ["built", "read"]


def no_new_folders(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """A file system on which so many new folders can be made in the cache, and no more (root may write anywhere)."""
    real, made = Path.mkdir, [0]

    def mkdir(self: Path, *arguments: Any, **named: Any) -> None:
        if self.name.startswith(".building-"):
            made[0] += 1
            if made[0] > after:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        real(self, *arguments, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
