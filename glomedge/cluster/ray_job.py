"""The parts of a run on Ray: handed to actors, each with a warm engine, which Ray places, watches and starts again.

By Ray's actors and not by Ray Data, which has nothing to do here: no data passes, only the numbers of parts. It would
be imported in every actor, with pandas, before the engine is opened, and hand out the next part late. Its checkpoint
filters the rows that are done in a further pool of actors, which takes a CPU and 1 GiB and waits for ever where the
workers have all CPUs; and a worker that dies while it repeats a write, or that outlives its driver, can leave rows
doubled or lost. Here a part is done when its file is there (``plan.py``): nothing is filtered, and whoever writes it
twice writes the same.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from glomedge.cluster.plan import ATTEMPTS
from glomedge.cluster.worker import Done, Job, Worker, on_gpu
from glomedge.errors import GlomedgeError, MissingExtraError, UsageError
from glomedge.system import cpu, telemetry

_TICK_S = 0.2
_STARTS = 3
_BEGINS_WITHIN_S = 900.0
"""For the first worker to begin a part: packages are imported on a node for the first time, and an engine is made."""
_PARTS_AT_ONCE = 2
"""Of a worker: while the last batches of one are in the engine and its files are written, the next one is decoded."""
_NICENESS = "RAY_worker_niceness"
_OBJECTS_BYTES = 128 << 20
_OURS = re.compile(r"\bglomedge\.errors\.\w*Error: (.+)")
_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_MOST_NOTES = 20
_ADVICE = "What is answered is kept: run again with --resume."


@dataclass(frozen=True)
class RayPool:
    """Who answers, where.

    Attributes:
        workers: engines at the same time; None: as many as there is room for.
        note: called with what the user should know.
    """

    workers: int | None = None
    note: Callable[[str], None] = lambda text: None

    def __call__(
        self,
        job: Job,
        model: bytes,
        parts: Sequence[int],
        done: Callable[[Done], None],
        stop: Callable[[], bool],
    ) -> bool:
        """Answer parts (``worker.AnswerParts``) on the cluster of ``RAY_ADDRESS``, or on one of this machine's own.

        Raises:
            MissingExtraError: Ray is not installed.
            UsageError: the cluster has not room for so many workers, or cannot be reached.
            GlomedgeError: the job failed; the parts that are answered stay.
        """
        with contextlib.redirect_stdout(_RaySays(self.note)), own_or_given_cluster(self.note) as ray:
            count = _room(ray, job, self.workers, len(parts))
            return _Stream(ray, job, model, parts, count).run(done, stop)


class _RaySays(io.TextIOBase):
    """Takes what Ray prints of nodes and workers that end, on standard output, where ``--json`` has its record.

    Of each message the first sentence, without the traceback behind it, becomes a note; a message again, none.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note, self._said = note, set[str]()

    def write(self, text: str) -> int:
        """As of a text stream."""
        line = _COLOUR.sub("", text).strip().partition("\n")[0].partition(" Error: ")[0]
        if line and line not in self._said and len(self._said) < _MOST_NOTES:
            self._said.add(line)
            self._note(f"Ray says: {line}")
        return len(text)


class RayWorker:
    """A worker as Ray makes it, once in each actor; it answers up to ``_PARTS_AT_ONCE`` parts at the same time."""

    def __init__(self, job: Job, model: bytes) -> None:
        try:
            self._worker = Worker(job, model)
        except GlomedgeError as error:
            raise GlomedgeError(str(error)) from None  # the others do not all survive the way to the driver

    def ready(self) -> None:
        """Returns once the worker is there."""

    def answer(self, part: int) -> Done:
        """Answer a part, and write its file."""
        try:
            return self._worker.answer(part)
        except GlomedgeError as error:
            raise GlomedgeError(str(error)) from None


@dataclass(eq=False)
class _Actor:
    """A worker and how many parts it has. Ray ends it when nothing holds its handle any more."""

    handle: Any
    parts: int = 0


class _Stream:
    """The parts on their way to the workers and back."""

    def __init__(self, ray: Any, job: Job, model: bytes, parts: Sequence[int], workers: int) -> None:
        self._ray, self._job, self._parts, self._workers = ray, job, parts, workers
        self._model = ray.put(model)  # kept for workers that are started again
        self._left, self._missing = deque(parts), len(parts)
        # The one place that holds the workers: one that has nothing to do any more ends, and makes room for another
        # that Ray starts again because its node is gone.
        self._under_way: dict[Any, tuple[_Actor, int | None]] = {}
        self._begun = False

    def run(self, done: Callable[[Done], None], stop: Callable[[], bool]) -> bool:
        """Answer them all; False where it is time to stop. Raises GlomedgeError."""
        self._start_workers()
        begin_s = time.monotonic()
        while self._missing:
            if stop():
                return False
            for ready in self._ray.wait([*self._under_way], timeout=_TICK_S)[0]:
                self._take(ready, done)
            if not self._begun and time.monotonic() - begin_s > _BEGINS_WITHIN_S:
                self._require_begun()
                self._begun = True
        return True

    def _start_workers(self) -> None:
        kind = self._ray.remote(RayWorker).options(
            num_cpus=self._job.cpus,
            num_gpus=1 if on_gpu(self._job.engine) else 0,
            max_concurrency=_PARTS_AT_ONCE,
            # However many die: a part that ends its workers ends the run by itself (``Worker.answer``).
            max_restarts=-1,
            max_task_retries=-1,
        )
        for _ in range(self._workers):
            worker = kind.remote(self._job, self._model)
            # No part before it is there: it may wait for a node that never comes.
            self._under_way[worker.ready.remote()] = _Actor(worker), None

    def _take(self, ready: Any, done: Callable[[Done], None]) -> None:
        """A worker is there, or has answered a part: hand it what is to be done next."""
        actor, part = self._under_way.pop(ready)
        try:
            said = self._ray.get(ready)
        except Exception as error:  # noqa: BLE001 - Ray's own, and the worker's inside them
            raise _explained(error) from None
        self._begun = True
        if part is not None:
            actor.parts -= 1
            self._missing -= 1
            done(said)
        # The last parts are not kept from those who would have none.
        while self._left and actor.parts < (_PARTS_AT_ONCE if len(self._left) >= self._workers else 1):
            part = self._left.popleft()
            actor.parts += 1
            self._under_way[actor.handle.answer.remote(part)] = actor, part

    def _require_begun(self) -> None:
        """Ray waits without end for room, and for nodes that cannot start a worker. Raises GlomedgeError."""
        store, plan = self._job.store, self._job.plan
        if not store.names(ATTEMPTS) and plan.done(store).isdisjoint(self._parts):
            raise GlomedgeError(
                f"No worker of this Ray cluster has begun within {_BEGINS_WITHIN_S / 60:g} minutes. It may have no "
                f"node with {self._job.cpus} free CPUs any more, or its nodes do not see {store.where}: look at ray "
                f"status and at the logs of Ray. {_ADVICE}"
            )


@contextlib.contextmanager
def own_or_given_cluster(note: Callable[[str], None]) -> Iterator[Any]:
    """Ray, connected; left at the end, and a cluster of our own ended."""
    address = os.environ.get("RAY_ADDRESS")
    # Lines of its C++ code, about what it mends by itself.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not address:
        _settle_own()
    try:
        ray = telemetry.import_ray()
    except ImportError:
        raise MissingExtraError("glomedge infer-ray", "ray", "ray") from None
    if ray.is_initialized():
        yield ray
        return
    with contextlib.ExitStack() as open_:
        if address:
            _connect(ray, address, note)
        else:
            _start(ray, open_)
        open_.callback(ray.shutdown)
        yield ray


def _connect(ray: Any, address: str, note: Callable[[str], None]) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 - Ray raises its own, Python's and gRPC's
        raise UsageError(
            f"The Ray cluster at RAY_ADDRESS={address} cannot be reached: {_first_line(error)} Correct RAY_ADDRESS "
            "(and RAY_AUTH_TOKEN, if it asks for a token), or unset it to start one on this machine."
        ) from None
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        note(
            "This Ray cluster was joined without RAY_AUTH_MODE=token. Without token authentication anyone who reaches "
            "a cluster can run any code on it, and read the crops."
        )


def _start(ray: Any, open_: contextlib.ExitStack) -> None:
    """A cluster of this process's own, on 127.0.0.1, without a dashboard, with a token that no file keeps."""
    # In /tmp, because the paths of its sockets must be short.
    folder = tempfile.mkdtemp(prefix="gle-ray-", dir="/tmp")
    open_.callback(shutil.rmtree, folder, ignore_errors=True)
    for left in reversed(range(_STARTS)):
        try:
            ray.init(
                address="local",
                num_cpus=cpu.usable_cpus(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=_OBJECTS_BYTES * 4,
                _temp_dir=folder,
            )
            return
        except Exception as error:  # noqa: BLE001 - Ray raises plain Exception where its processes are late
            ray.shutdown()
            if not left:
                raise GlomedgeError(
                    f"Ray could not be started on this machine: {_first_line(error)} Close other programs and run "
                    "again, or use glomedge infer."
                ) from None
            time.sleep(1.0)


def _settle_own() -> None:
    """What a cluster of this process's own reads from the environment; before Ray is imported, which keeps it."""
    # Ray's name for it: a cluster of this machine only, whose servers listen on 127.0.0.1.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray runs its workers at niceness 15: beside anything else they would stand still.
    os.environ.setdefault(_NICENESS, "0")


def _room(ray: Any, job: Job, wanted: int | None, parts: int) -> int:
    """How many workers to have: as many as wanted, or as there is room for. Raises UsageError, never waits."""
    gpus = 1 if on_gpu(job.engine) else 0
    nodes = [node["Resources"] for node in ray.nodes() if node.get("Alive")]

    def fitting(resources: Sequence[dict[str, float]]) -> int:
        return sum(
            int(min(each.get("CPU", 0) // job.cpus, each.get("GPU", 0) // gpus if gpus else float("inf")))
            for each in resources
        )

    needs = f"{job.cpus} CPUs{' and a GPU' if gpus else ''}"
    has = f"{sum(each.get('CPU', 0) for each in nodes):g} CPUs"
    has += f" and {sum(each.get('GPU', 0) for each in nodes):g} GPUs" if gpus else ""
    has += f" on {len(nodes)} node{'' if len(nodes) == 1 else 's'}"
    room = fitting(nodes)
    if room < (wanted or 1):
        raise UsageError(
            f"Too few CPUs: {wanted or 1} workers need {needs} each on one node, and this Ray cluster has {has}: room "
            f"for {room}. Give fewer --workers or --cpus-per-worker, or add nodes."
        )
    free = fitting(_free(ray))
    if free < 1:
        raise UsageError(
            f"Every CPU of this Ray cluster is in use: it has {has}, and not {needs} free on one node for a worker. "
            "Wait for the other jobs to end, or give fewer --cpus-per-worker."
        )
    return max(1, min(wanted or free, room, parts))


def _free(ray: Any) -> list[dict[str, float]]:
    """What is free on each node: CPUs of two nodes make no worker."""
    try:
        return list(ray._private.state.available_resources_per_node().values())
    except Exception:  # noqa: BLE001 - a client (ray://) is told only what is free on all of them together
        return [ray.available_resources()]


def _explained(error: BaseException) -> GlomedgeError:
    """What a user is told of a job that failed."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)  # Ray's copy of an error is of its kind too, but says the whole traceback
        if isinstance(seen, GlomedgeError) and cause is None:
            return seen
        seen = cause or seen.__cause__ or seen.__context__
    if found := _OURS.search(str(error)):  # of an actor that died at its start only the text arrives
        return GlomedgeError(found[1])
    return GlomedgeError(f"The Ray job failed: {_first_line(error)} {_ADVICE}")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0][:300]
    return text if text.endswith((".", "!", "?")) else f"{text}."
