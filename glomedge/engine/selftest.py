"""The golden self-test on the session that will serve, and the removal of a cached engine that fails it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from glomedge.engine.runner import RawOutput, Runner, check_contract
from glomedge.errors import ModelError
from glomedge.model.spec import ModelSpec

REMOVED = "That engine came from the cache and was removed from it. Start again to rebuild it."


def contract_test(spec: ModelSpec, runner: Runner, path: Path) -> None:
    """``check_contract``; an engine that fails it is removed from the cache. Raises ModelError naming the field."""
    try:
        check_contract(runner, spec, path)
    except ModelError as error:
        _forget(runner, error)


class PixelTest:
    """``golden.check_pixels`` on a thread of its own: it needs no session, and opening one takes as long.

    Opening holds one CPU and not Python's lock, so that a cold start is shorter by the imports and the pixels.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._pixels: npt.NDArray[np.uint8] | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="glomedge-self-test", daemon=True)
        self._thread.start()

    def __enter__(self) -> PixelTest:
        return self

    def __exit__(self, *_: object) -> None:
        # Whatever else failed: a thread that is inside a library's C++ when Python ends aborts the process.
        self._thread.join()

    def _run(self) -> None:
        try:
            from glomedge.engine import golden

            self._pixels = golden.check_pixels(self._spec)
        except BaseException as error:  # noqa: BLE001 - raised by the caller's thread
            self._failure = error

    def result(self) -> npt.NDArray[np.uint8]:
        """Wait for it; the crop for ``golden.check_answer``. Raises SelfTestError."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        assert self._pixels is not None
        return self._pixels


def self_test(
    spec: ModelSpec,
    runner: Runner,
    run: Callable[[npt.NDArray[np.uint8]], RawOutput],
    *,
    where: str,
    pixels: PixelTest | None = None,
) -> None:
    """Refuse a session that does not answer as the model did at export; its engine is removed from the cache.

    Args:
        spec: of the loaded file.
        runner: the session under test.
        run: images uint8 ``[1, side, side, 3]`` to what ``runner`` returns for them: probability and activation.
        where: words for the message, such as ``provider cuda``.
        pixels: started earlier; None runs that part here.

    Raises:
        SelfTestError: different pixels or another probability than at export.
        ModelError: the activation map and the probability contradict each other.
    """
    from glomedge.engine import golden

    # bfloat16 keeps 8 bits of mantissa, three fewer than fp16.
    low = 3e-2 if runner.opened.precision == "bf16" else 0.0
    answer: RawOutput | None = None

    def infer(images_nhwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        nonlocal answer
        answer = run(images_nhwc)
        return answer[0]

    try:
        crop = golden.check_pixels(spec) if pixels is None else pixels.result()
        golden.check_answer(spec, crop, infer, min_tolerance=low, where=where)
        assert answer is not None
        _check_map(spec, answer, max(low, spec.golden.probability_tolerance))
    except ModelError as error:
        if answer is None:
            raise  # the pixels were refused before the engine ran: it is not at fault
        _forget(runner, error)


def _check_map(spec: ModelSpec, answer: RawOutput, allowed: float) -> None:
    """The map and the probability must agree, or temperature, slope or offset in the spec are not the graph's."""
    if answer[1] is None:
        return  # a network without an exact map
    probability = float(answer[0].reshape(-1)[0])
    slope, offset = spec.logit_line
    logit = slope * float(answer[1].mean(dtype=np.float64)) + offset
    implied = 1.0 / (1.0 + float(np.exp(-np.clip(logit, -700.0, 700.0))))
    if not abs(implied - probability) <= allowed:
        raise ModelError(
            f"The spec and the graph disagree on temperature or activation: the map gives probability {implied:.6f} "
            f"at temperature {spec.temperature:g}{_at_site(spec)}, the graph {probability:.6f}. Export it again."
        )


def _at_site(spec: ModelSpec) -> str:
    site = spec.site
    return "" if site is None else f", the site's slope {site.slope:g} and offset {site.offset:g}"


def _forget(runner: Runner, error: ModelError) -> NoReturn:
    """Remove the refused engine from the cache, whose hashes show only that it is unchanged, not that it is correct.

    An engine built just now is removed as well, or the next start would use it.
    """
    if runner.forget():
        raise type(error)(f"{error} {REMOVED}") from error
    raise error
