"""The batch sizes that an engine is built for."""

from __future__ import annotations

from pathlib import Path

import pytest

from glomedge.engine import loading, providers
from glomedge.engine.options import EngineOptions
from glomedge.engine.runner import Runner, SessionRequest
from glomedge.errors import UsageError
from glomedge.model.spec import BatchProfile


@pytest.mark.parametrize(
    ("batch_size", "max_batch", "fixed", "expected"),
    [
        (None, None, False, (1, 8, 32)),
        (16, None, False, (1, 16, 32)),
        (64, None, False, (1, 64, 64)),
        (None, 4, False, (1, 4, 4)),
        (4, 128, False, (1, 4, 128)),
        (None, 128, True, (128, 128, 128)),
    ],
)
def test_batch_profile(
    batch_size: int | None, max_batch: int | None, fixed: bool, expected: tuple[int, int, int]
) -> None:
    profile = loading.batch_profile(
        BatchProfile(), EngineOptions(batch_size=batch_size, max_batch=max_batch, fixed_batch=fixed)
    )
    assert (profile.min, profile.opt, profile.max) == expected


@pytest.mark.parametrize(
    ("gpu", "wish", "expected"),
    [
        (True, {}, (1, 32, 32)),
        (True, {"batch_size": 8}, (1, 8, 32)),
        (True, {"max_batch": 16}, (1, 16, 16)),
        (True, {"fixed_batch": True}, (32, 32, 32)),
        (False, {}, (1, 8, 32)),
    ],
)
def test_python_and_the_commands_build_one_engine_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path,
    gpu: bool,
    wish: dict[str, int],
    expected: tuple[int, int, int],
) -> None:
    """A GPU runs one size alone: ``load`` without any must not look for another engine than ``warm`` has built."""
    seen: list[BatchProfile] = []
    cpu = providers.named("cpu")

    def open_it(request: SessionRequest) -> Runner:
        seen.append(request.profile)
        return cpu.open(request)

    monkeypatch.setitem(providers.PROVIDERS, "card", providers.Provider("card", "", lambda: None, open_it, gpu=gpu))
    with loading.load(tiny_model, "card", **wish):  # type: ignore[arg-type]  # a table of keyword arguments
        pass
    assert [(profile.min, profile.opt, profile.max) for profile in seen] == [expected]


@pytest.mark.parametrize(
    ("fixed", "words"),
    [
        (False, "^batch_size 8 is not between 1 and max_batch 4. Raise max_batch.$"),
        (True, "^fixed_batch runs one batch size, and batch_size 8 is not max_batch 4. Give one of them.$"),
    ],
)
def test_contradicting_batch_sizes_are_refused_in_the_words_of_python(
    tiny_model: Path, fixed: bool, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        loading.load(tiny_model, "cpu", batch_size=8, max_batch=4, fixed_batch=fixed)
