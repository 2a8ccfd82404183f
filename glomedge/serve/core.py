"""Answers crops for every protocol: one bounded queue, one set of decoders, one batcher, one model at a time."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from glomedge.engine.engine import Output
from glomedge.engine.providers import batch_of
from glomedge.errors import GlomedgeError
from glomedge.model.spec import Recipe
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Answer, Decoder, Preparation, Source, default_decoder, fill, prepare
from glomedge.serve.audit import Log
from glomedge.serve.batcher import Batcher
from glomedge.serve.metrics import Metrics
from glomedge.serve.options import ServeOptions
from glomedge.serve.refusal import RefusedError, busy, malformed, too_many
from glomedge.serve.served import ServedModel, batch_threads
from glomedge.system.cpu import usable_cpus

Pixels = npt.NDArray[np.uint8]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_TURN_S = 0.02
_SMALL_BYTES = 1 << 20
"""What takes a millisecond or less by itself is not worth another thread."""


@dataclass(frozen=True)
class Files:
    """Image files as they are, one a crop."""

    contents: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.contents)


@dataclass(frozen=True)
class Parts:
    """Outlines on slides that lie on this server's disk: inputs of a run, and what gives their pixels."""

    found: Sequence[Found]
    source: Source

    def __len__(self) -> int:
        return len(self.found)


@dataclass(frozen=True)
class Enhanced:
    """Crops that the client has enhanced with ``glomedge.enhance``: uint8 ``[N, side, side, 3]``."""

    images_nhwc: Pixels

    def __len__(self) -> int:
        return len(self.images_nhwc)


@dataclass(frozen=True)
class Caller:
    """Who asks, for the audit line.

    Attributes:
        client: network address.
        request_id: of the client's choice.
        protocol: ``http``, ``grpc``, ``cases`` or ``page``.
    """

    client: str
    request_id: str
    protocol: str


@dataclass(frozen=True)
class Answered:
    """The answers of one request, in the order of its crops, and the model that gave them.

    Attributes:
        answers: ``probability`` is None exactly where ``status`` begins with ``error:``.
        model_sha256: of the model's file.
        threshold: from which on a crop is called globally sclerotic.
        map_shape: of each activation map; None where the model has none.
    """

    answers: list[Answer]
    model_sha256: str
    threshold: float
    map_shape: tuple[int, int] | None

    def label(self, answer: Answer) -> int | None:
        """1 globally sclerotic, 0 not; None for an error."""
        return None if answer.probability is None else int(answer.probability >= self.threshold)


class Accepted:
    """One request that is being answered: see ``Core.accept``."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def __enter__(self) -> ServedModel:
        core = self._core
        if core.draining:
            raise busy("The server is shutting down. Ask again in a few seconds.", 5)
        self._model = core.model.hold()
        core.in_flight += 1
        return self._model

    def __exit__(self, *error: object) -> None:
        self._core.in_flight -= 1
        self._model.release()


class Core:
    """The part of the server that no protocol knows; all but ``swap`` is for the event loop's thread.

    Args:
        options: of the server.
        model: loaded and self-tested; the core owns it.
        log: of the server.
        metrics: of the server.

    Attributes:
        draining: once true, new requests get 503.
        pending: crops that are being answered or wait for it.
        in_flight: requests that were accepted and have no answer yet.
    """

    def __init__(self, options: ServeOptions, model: ServedModel, log: Log, metrics: Metrics) -> None:
        self.options, self.log, self.metrics = options, log, metrics
        self.model = model
        self.draining = False
        self.pending = self.in_flight = 0
        self._seconds_a_crop = 0.0
        self._decoder = default_decoder()  # imports now what the first request would wait for
        self._decoders = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="decode")
        self._batcher = Batcher(
            batch_threads(options, model.spec), batch_of(options.engine, model.spec), self._computed
        )
        metrics.queue_limit.set(options.limits.queue_crops)
        metrics.watch(metrics.queue, lambda: self.pending)
        metrics.watch(metrics.ready, lambda: float(self.ready))
        self._announce()

    @property
    def ready(self) -> bool:
        """Whether new requests are answered: the model has passed its self-test before it came here."""
        return not self.draining

    def swap(self, model: ServedModel) -> None:
        """Answer later requests with another model; those that were accepted keep theirs."""
        before, self.model = self.model, model
        self._announce()
        before.retire()

    def close(self) -> None:
        """Free everything; nothing is in flight any more."""
        self._decoders.shutdown(cancel_futures=True)
        self._batcher.close()
        self.model.retire()

    def accept(self) -> Accepted:
        """Around a request, from before its body is read to its answer: the model that answers it, come what may.

        Raises:
            RefusedError: on entering, the server is shutting down (503).
        """
        return Accepted(self)

    async def classify(
        self, crops: Files | Parts | Enhanced, caller: Caller, model: ServedModel, *, thumbnail_px: int = 0
    ) -> Answered:
        """The answer of each crop; one that cannot be read costs none of the others.

        Args:
            crops: at least one, at most ``Limits.request_crops``.
            caller: for the audit line.
            model: held by whoever asks.
            thumbnail_px: longer side of a JPEG to be kept in ``Answer.thumbnail``; not of ``Enhanced``.

        Raises:
            RefusedError: too many crops (400), a full queue (503), no answer in time (504), a failed network (500).
        """
        count = len(crops)
        self._admit(count)
        try:
            answers = await self._answers(model, crops, thumbnail_px)
        except TimeoutError:
            raise RefusedError(504, "There was no answer in time. Send fewer crops.", self._retry_after_s()) from None
        except GlomedgeError as error:
            self.log.event("network_failed", error=type(error).__name__, message=str(error))
            raise RefusedError(500, "The network could not be computed; the server's log says why.") from None
        finally:
            self.pending -= count
        self._record(model, answers, caller)
        return Answered(answers, model.sha256, model.spec.threshold, model.map_shape)

    async def classify_many(self, files: Files, caller: Caller, model: ServedModel) -> Answered:
        """The answers of any number of files; waits its turn where the queue is full.

        Raises:
            RefusedError: the queue is full when it begins (503), or as ``classify``.
        """
        step = self.options.limits.request_crops
        answered = await self.classify(Files(files.contents[:step]), caller, model)
        for begin in range(step, len(files), step):
            part = Files(files.contents[begin : begin + step])
            await self._room_for(len(part))
            answered.answers.extend((await self.classify(part, caller, model)).answers)
        return answered

    async def _room_for(self, crops: int) -> None:
        limits = self.options.limits
        end_s = time.monotonic() + limits.request_s
        while self.pending + crops > limits.queue_crops and time.monotonic() < end_s:
            await asyncio.sleep(_TURN_S)

    async def offload(self, size_bytes: int, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run ``work`` here where its input is small, else on another thread: other requests need not wait for it."""
        if size_bytes <= _SMALL_BYTES:
            return work(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._decoders, partial(work, *args, **kwargs))

    def _admit(self, crops: int) -> None:
        limits = self.options.limits
        if not crops:
            raise malformed("There is no crop in the request. Send at least one.")
        if crops > limits.request_crops:
            raise too_many(crops, limits.request_crops)
        if self.pending + crops > limits.queue_crops:
            raise busy("The queue is full. Ask again later.", self._retry_after_s())
        self.pending += crops

    def _retry_after_s(self) -> int:
        return max(1, min(60, math.ceil(self.pending * self._seconds_a_crop)))

    async def _answers(self, model: ServedModel, crops: Files | Parts | Enhanced, thumbnail_px: int) -> list[Answer]:
        """Raises TimeoutError: there are none ``Limits.request_s`` from now."""
        end_s = asyncio.get_running_loop().time() + self.options.limits.request_s
        if isinstance(crops, Enhanced):
            images = crops.images_nhwc
            answers = good = await self.offload(images.nbytes, _hashed, images)
        elif len(crops) == 1:
            return await self._one(model, crops, thumbnail_px, end_s)
        else:
            async with asyncio.timeout_at(end_s):
                answers, images = await self._decoded(model.spec.recipe, crops, thumbnail_px)
            good = [answer for answer in answers if not answer.status.startswith("error:")]
        if good:
            _fill(good, await _until(end_s, self._batcher.submit(model, images)))
        return answers

    async def _one(self, model: ServedModel, crops: Files | Parts, thumbnail_px: int, end_s: float) -> list[Answer]:
        """One file or part, which goes from its decoder to the network without coming back here.

        Where it is the only file in the whole server, one thread does all: handing it on would cost more. Not a part of
        a slide: its disk may be slow, and others would wait for it.
        """
        images, how, given = self._preparation(model.spec.recipe, crops, thumbnail_px)
        answers = list[Answer]()

        def prepare() -> bool:
            answers.append(_prepared(self._decoder, given[0], how, images[0]))
            return not answers[0].status.startswith("error:")

        if isinstance(crops, Files) and self.pending == 1:
            asked = self._batcher.submit(model, images, prepare)
        else:
            asked = self._batcher.submit_when_prepared(self._decoders, model, images, prepare)
        output = await _until(end_s, asked)
        if output is not None:
            _fill(answers, output)
        return answers

    async def _decoded(self, recipe: Recipe, crops: Files | Parts, thumbnail_px: int) -> tuple[list[Answer], Pixels]:
        """Answers, those of broken files filled in already, and the enhanced pixels of the others."""
        images, how, given = self._preparation(recipe, crops, thumbnail_px)
        loop = asyncio.get_running_loop()
        answers = await asyncio.gather(
            *(
                loop.run_in_executor(self._decoders, _prepared, self._decoder, crop, how, images[index])
                for index, crop in enumerate(given)
            )
        )
        good = [index for index, answer in enumerate(answers) if not answer.status.startswith("error:")]
        return answers, images if len(good) == len(images) else images[good]

    def _preparation(
        self, recipe: Recipe, crops: Files | Parts, thumbnail_px: int
    ) -> tuple[Pixels, Preparation, Sequence[bytes | Found]]:
        """Room for enhanced pixels, how they come there, and from what."""
        images = np.empty((len(crops), recipe.size_px, recipe.size_px, 3), np.uint8)
        source = crops.source if isinstance(crops, Parts) else None
        how = Preparation(b"", recipe, thumbnail_px=thumbnail_px, source=source)
        return images, how, crops.found if isinstance(crops, Parts) else crops.contents

    def _record(self, model: ServedModel, answers: list[Answer], caller: Caller) -> None:
        for answer in answers:
            kind, _, code = answer.status.partition(":")
            self.metrics.crops_of(kind).inc()
            if kind == "error":
                self.metrics.crop_errors_of(code).inc()
        self.log.audit(
            client=caller.client,
            request_id=caller.request_id,
            protocol=caller.protocol,
            model_sha256=model.sha256,
            answers=answers,
        )

    def _computed(self, crops: int, seconds: float) -> None:
        self.metrics.batch_crops.observe(crops)
        self.metrics.batch_seconds.observe(seconds)
        self._seconds_a_crop += 0.1 * (seconds / crops - self._seconds_a_crop)

    def _announce(self) -> None:
        engine = self.model.engine
        self.metrics.serve_model(self.model.sha256, engine.runtime.precision, engine.provider)


_NO_FILE = Found(b"")


async def _until(end_s: float, answer: asyncio.Future[Output | None]) -> Output | None:
    """What the batcher answers. Raises TimeoutError where it has not by that time of the loop."""

    def late() -> None:
        if not answer.done():
            answer.set_exception(TimeoutError())

    timer = asyncio.get_running_loop().call_at(end_s, late)
    try:
        return await answer
    finally:
        timer.cancel()


def _hashed(images_nhwc: Pixels) -> list[Answer]:
    """Of crops that have no file: their SHA-256 is that of their pixels, row after row."""
    return [Answer(_NO_FILE, sha256=hashlib.sha256(crop.data).hexdigest()) for crop in images_nhwc]


def _fill(answers: Sequence[Answer], output: Output | None) -> None:
    assert output is not None  # of crops that are prepared
    for index, answer in enumerate(answers):
        fill(answer, output.probability[index], None, output.activation, index)


def _prepared(decoder: Decoder, crop: bytes | Found, how: Preparation, out: Pixels) -> Answer:
    """One file or part decoded, checked and enhanced, by the steps and with the words of ``glomedge infer``."""
    if isinstance(crop, Found):
        answer = Answer(crop)
        prepare(answer, how, decoder, out)
    else:
        answer = Answer(_NO_FILE)
        prepare(answer, how, decoder, out, crop)
    return answer


class Stopwatch:
    """Counts one request and its seconds."""

    def __init__(self, metrics: Metrics, protocol: str) -> None:
        self._metrics, self._protocol = metrics, protocol
        self._begin_s = time.perf_counter()

    def stop(self, code: int) -> None:
        """The request has ended with that HTTP status."""
        self._metrics.requests_of(self._protocol, code).inc()
        self._metrics.request_seconds_of(self._protocol).observe(time.perf_counter() - self._begin_s)
