"""What the batcher does with work that fails, is prepared on its threads, or is not wanted any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from glomedge.engine.options import EngineOptions
from glomedge.errors import EngineError
from glomedge.serve.batcher import Batcher
from glomedge.serve.options import ServeOptions
from glomedge.serve.served import ServedModel, open_model

ONE = np.full((1, 224, 224, 3), 120, np.uint8)


@pytest.fixture
def model(tiny_model: Path) -> Iterator[ServedModel]:
    opened = open_model(ServeOptions(model=tiny_model, engine=EngineOptions("cpu")))
    yield opened
    opened.retire()
    assert opened._holders == 0  # whatever happened to the work that held it
    with pytest.raises(EngineError, match="closed"):
        opened.engine.infer(ONE)


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    made = Batcher(1, 8, lambda crops, seconds: None)
    yield made
    made.close()


def test_pixels_are_prepared_on_the_thread_that_computes(model: ServedModel, batcher: Batcher) -> None:
    async def ask() -> tuple[float, float]:
        there = await batcher.submit(model, ONE)
        late = np.zeros_like(ONE)

        def prepare() -> bool:
            assert threading.current_thread().name == "batch-0"
            late[:] = ONE
            return True

        prepared = await batcher.submit(model, late, prepare)
        assert there is not None
        assert prepared is not None
        return float(there.probability[0]), float(prepared.probability[0])

    there, prepared = asyncio.run(ask())
    assert there == prepared


def test_what_cannot_be_prepared_costs_nobody_else(model: ServedModel, batcher: Batcher) -> None:
    began, go = threading.Event(), threading.Event()

    def slowly() -> bool:
        began.set()
        assert go.wait(30)
        return True

    def defect() -> bool:
        raise ValueError("a defect")

    async def ask() -> list[object]:
        # While the first is prepared the others come, and are one batch.
        work = [batcher.submit(model, ONE.copy(), slowly)]
        await asyncio.to_thread(began.wait, 30)
        work += [batcher.submit(model, ONE.copy(), prepare) for prepare in (lambda: False, defect, None)]
        go.set()
        return list(await asyncio.gather(*work, return_exceptions=True))

    first, nothing, failed, last = asyncio.run(ask())
    assert nothing is None
    assert isinstance(failed, ValueError)
    assert first.probability.shape == last.probability.shape == (1,)  # type: ignore[attr-defined]


def test_what_is_cancelled_before_its_turn_is_never_computed(model: ServedModel, batcher: Batcher) -> None:
    began, go = threading.Event(), threading.Event()
    computed = list[int]()

    def compute() -> bool:
        computed.append(1)
        return True

    def slowly() -> bool:
        began.set()
        assert go.wait(30)
        return False

    async def ask() -> None:
        first = batcher.submit(model, ONE.copy(), slowly)
        await asyncio.to_thread(began.wait, 30)
        unwanted = batcher.submit(model, ONE.copy(), compute)
        unwanted.cancel()
        first.cancel()  # its turn has come: it is computed, and nobody is told
        go.set()
        assert await batcher.submit(model, ONE.copy()) is not None

    asyncio.run(ask())
    assert computed == []


def test_pixels_are_prepared_on_threads_of_the_caller(model: ServedModel) -> None:
    """Whatever comes of it, the model is held no longer (see the fixture)."""
    batcher, go = Batcher(1, 8, lambda crops, seconds: None), threading.Event()
    called = list[str]()

    def named(name: str, result: bool) -> Callable[[], bool]:
        def prepare() -> bool:
            called.append(f"{name} on {threading.current_thread().name}")
            return result

        return prepare

    def defect() -> bool:
        raise ValueError("a defect")

    async def ask(threads: ThreadPoolExecutor) -> None:
        good = batcher.submit_when_prepared(threads, model, ONE.copy(), named("good", True))
        nothing = batcher.submit_when_prepared(threads, model, ONE.copy(), named("nothing", False))
        failed = batcher.submit_when_prepared(threads, model, ONE.copy(), defect)
        output = await good
        assert output is not None
        assert output.probability == model.engine.infer(ONE).probability
        assert await nothing is None
        with pytest.raises(ValueError, match="a defect"):
            await failed
        threads.submit(go.wait, 30)
        unwanted = batcher.submit_when_prepared(threads, model, ONE.copy(), named("unwanted", True))
        unwanted.cancel()
        late = batcher.submit_when_prepared(threads, model, ONE.copy(), named("late", True))
        batcher.close()
        go.set()
        with pytest.raises(RuntimeError, match="closed"):
            await late

    with ThreadPoolExecutor(1, "caller") as threads:
        asyncio.run(ask(threads))
    assert called == ["good on caller_0", "nothing on caller_0", "late on caller_0"]

    async def too_late() -> None:
        with pytest.raises(RuntimeError, match="shutdown"):
            batcher.submit_when_prepared(threads, model, ONE, named("never", True))

    asyncio.run(too_late())


def test_answers_for_a_loop_that_has_ended_are_dropped(model: ServedModel) -> None:
    batcher, go = Batcher(1, 8, lambda crops, seconds: None), threading.Event()

    async def ask() -> None:
        batcher.submit(model, ONE.copy(), lambda: go.wait(30))

    asyncio.run(ask())
    go.set()
    batcher.close()

    async def late() -> None:
        with pytest.raises(RuntimeError, match="closed"):
            batcher.submit(model, ONE)

    asyncio.run(late())
