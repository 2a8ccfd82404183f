"""The parts of a run on Ray: Ray Data hands them to a pool of actors, each with a warm engine.

Ray Data's own checkpoint is not used. It filters the rows that are done in a further pool of actors, which takes a CPU
and 1 GiB and waits for ever where the workers have all CPUs; and a worker that dies while it repeats a write, or that
outlives its driver, can leave rows doubled or lost. Here a part is done when its file is there (``plan.py``): nothing
is filtered, and whoever writes it twice writes the same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import secrets
import shutil
import tempfile
import threading
import time
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
_NICENESS = "RAY_worker_niceness"
_OBJECTS_BYTES = 128 << 20
_OURS = re.compile(r"\bglomedge\.errors\.\w*Error: (.+)")
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
        with own_or_given_cluster(self.note) as ray:
            count = _room(ray, job, self.workers, len(parts))
            return _Stream(ray, job, model, parts, count).run(done, stop)


class RayWorker:
    """A worker as Ray Data makes it, once in each actor."""

    def __init__(self, job: Job, model: Any) -> None:
        ray = telemetry.import_ray()
        try:
            self._worker = Worker(job, ray.get(model))
        except GlomedgeError as error:
            raise GlomedgeError(str(error)) from None  # the others do not all survive the way to the driver

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Answer the parts of one batch."""
        try:
            answered = [self._worker.answer(int(part)) for part in batch["part"]]
        except GlomedgeError as error:
            raise GlomedgeError(str(error)) from None
        return {
            "part": [done.part for done in answered],
            "rows": [done.rows for done in answered],
            "engine": [json.dumps(done.engine) for done in answered],
        }


class _Stream:
    """The job, on a thread of its own, so that a signal is seen while Ray is waited for."""

    def __init__(self, ray: Any, job: Job, model: bytes, parts: Sequence[int], workers: int) -> None:
        self._ray, self._job, self._parts, self._workers = ray, job, parts, workers
        self._model = ray.put(model)
        self._said: queue.SimpleQueue[Done | BaseException | None] = queue.SimpleQueue()

    def run(self, done: Callable[[Done], None], stop: Callable[[], bool]) -> bool:
        threading.Thread(target=self._consume, name="glomedge-ray", daemon=True).start()
        begin_s, begun = time.monotonic(), False
        while not stop():
            try:
                said = self._said.get(timeout=_TICK_S)
            except queue.Empty:
                if not begun and time.monotonic() - begin_s > _BEGINS_WITHIN_S:
                    self._require_begun()
                    begun = True
                continue
            begun = True
            if said is None:
                return True
            if isinstance(said, BaseException):
                raise _explained(said)
            done(said)
        return False

    def _require_begun(self) -> None:
        """Ray waits without end for room, and for nodes that cannot start a worker. Raises GlomedgeError."""
        store, plan = self._job.store, self._job.plan
        if not store.names(ATTEMPTS) and plan.done(store).isdisjoint(self._parts):
            raise GlomedgeError(
                f"No worker of this Ray cluster has begun within {_BEGINS_WITHIN_S / 60:g} minutes. It may have no "
                f"node with {self._job.cpus} free CPUs any more, or its nodes do not see {store.where}: look at ray "
                f"status and at the logs of Ray. {_ADVICE}"
            )

    def _consume(self) -> None:
        try:
            for row in self._dataset().iter_rows():
                self._said.put(Done(int(row["part"]), int(row["rows"]), json.loads(row["engine"])))
            self._said.put(None)
        except BaseException as error:  # noqa: BLE001 - raised by the caller's thread
            self._said.put(error)

    def _dataset(self) -> Any:
        data = telemetry.import_ray("data")
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it says of a failure, _explained says
        items = [{"part": part} for part in self._parts]
        return data.from_items(items, override_num_blocks=len(items)).map_batches(
            RayWorker,
            fn_constructor_args=(self._job, self._model),
            batch_size=1,
            compute=data.ActorPoolStrategy(size=self._workers),
            num_cpus=self._job.cpus,
            num_gpus=1 if on_gpu(self._job.engine) else 0,
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
        telemetry.import_ray("data")
    except ImportError:
        raise MissingExtraError("glomedge infer-ray", "ray[data]", "ray") from None
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
        if isinstance(seen, GlomedgeError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__ or seen.__context__
    if found := _OURS.search(str(error)):  # of an actor that died at its start only the text arrives
        return GlomedgeError(found[1])
    return GlomedgeError(f"The Ray job failed: {_first_line(error)} {_ADVICE}")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0][:300]
    return text if text.endswith((".", "!", "?")) else f"{text}."
