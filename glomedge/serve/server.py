"""The server process: what it opens, the signals it obeys, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn

from glomedge.about import RESEARCH_USE_NOTICE, __version__
from glomedge.errors import GlomedgeError, UsageError
from glomedge.runs.pipeline_run import one_opencv_thread
from glomedge.serve.app import HttpApp
from glomedge.serve.audit import Log
from glomedge.serve.body import Bodies
from glomedge.serve.cases import CasesApi
from glomedge.serve.connection import TimedConnection
from glomedge.serve.core import Core
from glomedge.serve.metrics import Metrics
from glomedge.serve.options import ServeOptions, Tokens
from glomedge.serve.page import PageApi
from glomedge.serve.served import batch_threads, open_model
from glomedge.serve.signals import on_signals

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from glomedge.serve.grpc_service import GrpcServer

_POLL_S = 0.02
_KEEP_ALIVE_S = 30
_BACKLOG = 1024
_GRACE_S = 1.0
_COLLECT_AFTER = (700, 10, 10)


def serve(options: ServeOptions) -> None:
    """Load the model, self-test it, listen, and answer until SIGTERM or SIGINT; then finish what is in flight.

    Raises:
        GlomedgeError: an option, the model or an address cannot be used; nothing was answered.
    """
    options.check()
    tokens = None if options.token_file is None else Tokens(options.token_file)
    metrics = Metrics()
    log = Log(options.audit_log, metrics.audit_failures.inc)
    try:
        with _listening(options.host, options.port, "--port") as http, one_opencv_thread():
            core = Core(options, open_model(options), log, metrics)
            try:
                with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                    runner.run(_Server(core, tokens, http).run())
            finally:
                core.close()
    finally:
        log.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, whose loop and sockets are C: beside the network Python's own cost more (see ``connection``)."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


@contextlib.contextmanager
def _listening(host: str, port: int, option: str) -> Iterator[socket.socket]:
    """A socket bound to the address; nothing connects before the server is ready. Raises UsageError."""
    try:
        (family, _, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # With the protocol named, asyncio sets TCP_NODELAY on every connection. Without it an answer's body waits up
        # to 40 ms for the client to acknowledge its headers.
        bound = socket.socket(family, socket.SOCK_STREAM, protocol)
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror}. Give an address of this machine.") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise UsageError(f"{host} port {port}: {error.strerror}. Give another {option} or --host.") from None
    try:
        yield bound
    finally:
        bound.close()


class _QuietServer(uvicorn.Server):
    """uvicorn, but signals are ours: its own handler would end this process with 143 after a clean shutdown."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Server:
    def __init__(self, core: Core, tokens: Tokens | None, http: socket.socket) -> None:
        self._core, self._options, self._log = core, core.options, core.log
        self._tokens, self._socket = tokens, http
        self._bodies = Bodies(self._options.limits)
        self._stop = asyncio.Event()
        self._stops = 0
        self._swap_wanted = False
        self._swapping: asyncio.Task[None] | None = None

    async def run(self) -> None:
        on_signals(asyncio.get_running_loop(), stop=self._stop_asked, swap=self._swap_asked)
        page = PageApi(self._core, self._bodies, token_needed=self._tokens is not None)
        routes = [*CasesApi(self._core, self._bodies).routes(), *page.routes()]
        server = _QuietServer(self._config(HttpApp(self._core, self._tokens, self._bodies, routes).asgi()))
        rpc = self._grpc_server()
        http = asyncio.create_task(server.serve(sockets=[self._socket]))
        while not server.started and not http.done():
            await asyncio.sleep(_POLL_S)
        if rpc is not None:
            await rpc.start()
        # What was imported and loaded stays: the collector need not look at it again and again.
        gc.freeze()
        # Few objects of a request may hold many megabytes: the command line's own limit would let them pile up.
        gc.set_threshold(*_COLLECT_AFTER)
        self._log.event("ready", **self._facts(None if rpc is None else rpc.address))
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait((http, stopped), return_when=asyncio.FIRST_COMPLETED)
        await self._drain()
        server.should_exit = True
        if rpc is not None:
            await rpc.stop(_GRACE_S)
        await http
        stopped.cancel()
        page.close()
        if self._swapping is not None:
            await self._swapping
        self._log.event("stopped", unanswered=self._core.in_flight)

    def _config(self, app: ASGIApp) -> uvicorn.Config:
        options, limits = self._options, self._options.limits
        connection: type[TimedConnection] = type("Connection", (TimedConnection,), {"header_s": limits.header_s})
        _log_uvicorn(self._log)
        return uvicorn.Config(
            app,
            http=connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=limits.connections,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(_GRACE_S),
            ssl_certfile=options.tls_cert,
            ssl_keyfile=options.tls_key,
        )

    def _grpc_server(self) -> GrpcServer | None:
        if self._options.grpc_port is None:
            return None
        from glomedge.serve.grpc_service import GrpcServer  # grpcio is an extra of its own

        return GrpcServer(self._core, self._tokens, self._bodies)

    def _facts(self, grpc_address: str | None) -> dict[str, Any]:
        core, options = self._core, self._options
        host, port = self._socket.getsockname()[:2]
        scheme = "http" if options.tls_cert is None else "https"
        return {
            "http": f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}",
            "grpc": grpc_address,
            "glomedge": __version__,
            "model_sha256": core.model.sha256,
            "provider": core.model.engine.provider,
            "optimise": options.optimise,
            "batches_at_once": batch_threads(options, core.model.spec),
            "threads": core.model.engine.runtime.threads,
            "token_needed": self._tokens is not None,
            "notes": list(core.model.engine.runtime.notes),
            "notice": RESEARCH_USE_NOTICE,
        }

    def _stop_asked(self) -> None:
        self._stops += 1
        self._core.draining = True
        self._stop.set()

    async def _drain(self) -> None:
        """Wait for what is in flight, for ``drain_s`` seconds or until a second signal."""
        self._core.draining = True
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._options.limits.drain_s
        while self._core.in_flight and loop.time() < end_s and self._stops < 2:
            await asyncio.sleep(_POLL_S)

    def _swap_asked(self) -> None:
        self._swap_wanted = True
        if self._swapping is None or self._swapping.done():
            self._swapping = asyncio.create_task(self._swap())

    async def _swap(self) -> None:
        """Load the model file again; the one that is served stays where that fails."""
        core = self._core
        while self._swap_wanted:
            self._swap_wanted = False
            try:
                model = await asyncio.to_thread(open_model, self._options)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the new file, the old one goes on
                told = str(error) if isinstance(error, GlomedgeError) else ""
                core.metrics.swaps.labels("refused").inc()
                self._log.event("model_kept", error=type(error).__name__, message=told, model_sha256=core.model.sha256)
                continue
            core.swap(model)
            core.metrics.swaps.labels("done").inc()
            self._log.event("model_swapped", model_sha256=model.sha256, provider=model.engine.provider)


class _Forwarded(logging.Handler):
    """uvicorn's warnings as lines of our log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        self._log.event("http", message=record.getMessage().strip(), error=kind.__name__ if kind else "")


def _log_uvicorn(log: Log) -> None:
    logger = logging.getLogger("uvicorn.error")
    logger.handlers[:] = [_Forwarded(log)]
    logger.setLevel(logging.WARNING)
    logger.propagate = False
