"""The gRPC side: the calls of the protocol, and the server that takes them on the loop of the HTTP side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import UsageError
from glomedge.serve import tensors, v2_grpc
from glomedge.serve.body import Bodies
from glomedge.serve.core import Caller, Core, Stopwatch
from glomedge.serve.grpc_messages import SERVICE, message
from glomedge.serve.options import ServeOptions, Tokens
from glomedge.serve.refusal import RefusedError, busy, malformed

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_OPEN_CALLS = ("ServerLive", "ServerReady")
"""Need no token, as over HTTP."""
_EMPTY_CALLS = (*_OPEN_CALLS, "ServerMetadata")
"""Their requests have no fields: what is sent is not read."""

Handler = Callable[[Any, Any], Awaitable[Any]]


class GrpcServer:
    """Listens once ``start`` returns.

    Args:
        core: answers the crops.
        tokens: None where no token is needed.
        bodies: counts requests in memory, those over HTTP among them.

    Attributes:
        address: ``grpc://host:port``, or ``grpcs://`` with TLS.
    """

    def __init__(self, core: Core, tokens: Tokens | None, bodies: Bodies) -> None:
        self._core, self._tokens, self._bodies = core, tokens, bodies
        options = core.options
        limits = options.limits
        # The length of a message is not known before all of it is there: each may have as much as is allowed.
        self._readers = asyncio.Semaphore(max(1, limits.bodies_bytes // limits.body_bytes))
        self._server: Any = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limits.body_bytes),
                ("grpc.so_reuseport", 0),  # or a second server would take half of the requests
                # On a fast connection its window grows to megabytes, which are held of calls that are not read.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ],
            maximum_concurrent_rpcs=limits.connections,
        )
        self._calls: dict[str, Handler] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        handlers = {name: self._handler(name) for name in self._calls}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.address = self._bind(options)

    def _bind(self, options: ServeOptions) -> str:
        host = f"[{options.host}]" if ":" in options.host else options.host
        try:
            if options.tls_cert is None or options.tls_key is None:
                port = self._server.add_insecure_port(f"{host}:{options.grpc_port}")
                return f"grpc://{host}:{port}"
            pair = (options.tls_key.read_bytes(), options.tls_cert.read_bytes())
            port = self._server.add_secure_port(f"{host}:{options.grpc_port}", grpc.ssl_server_credentials([pair]))
        except RuntimeError:
            where = f"port {options.grpc_port} of {options.host}"
            raise UsageError(f"gRPC cannot listen on {where}. Give another --grpc-port, or --no-grpc.") from None
        return f"grpcs://{host}:{port}"

    async def start(self) -> None:
        """Listen."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and give those that run so many seconds."""
        await self._server.stop(grace_s)

    def _handler(self, name: str) -> Any:
        call = self._calls[name]

        async def run(unread: Any, context: Any) -> Any:
            try:
                self._check(name, context)
                request = None if name in _EMPTY_CALLS else await self._read(name, context)
                await context.send_initial_metadata((("x-research-use", RESEARCH_USE_NOTICE),))
                return await call(request, context)
            except RefusedError as refusal:
                if refusal.retry_after_s is not None:
                    context.set_trailing_metadata((("retry-after", str(refusal.retry_after_s)),))
                await context.abort(_CODES.get(refusal.status, grpc.StatusCode.INTERNAL), refusal.message)

        # To the client this is a call with one message; but gRPC would read that message before ``run`` is called,
        # whoever sends it and however many do.
        return grpc.stream_unary_rpc_method_handler(
            run, response_serializer=message(f"{name}Response").SerializeToString
        )

    async def _read(self, name: str, context: Any) -> Any:
        """The one message of a call. Raises RefusedError."""
        try:
            async with asyncio.timeout(self._core.options.limits.body_s), self._readers:
                raw = await context.read()
        except TimeoutError:
            raise busy("The message did not come in time, or too many are being sent. Ask again later.") from None
        if raw is grpc.aio.EOF:
            raise malformed("The call has no message.")
        try:
            return await self._core.offload(len(raw), message(f"{name}Request").FromString, raw)
        except DecodeError:
            raise malformed(f"The message is no {name}Request.") from None

    def _check(self, name: str, context: Any) -> None:
        if self._tokens is None or name in _OPEN_CALLS:
            return
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not self._tokens.allow(str(given)):
            raise RefusedError(401, "A token is needed: send the metadata 'authorization: Bearer TOKEN'.")

    async def _server_live(self, request: Any, context: Any) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _server_ready(self, request: Any, context: Any) -> Any:
        return message("ServerReadyResponse")(ready=self._core.ready)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        tensors.check_model(request.name, request.version)
        return message("ModelReadyResponse")(ready=self._core.ready)

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        return v2_grpc.server_metadata()

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        tensors.check_model(request.name, request.version)
        spec = self._core.model.spec
        return v2_grpc.model_metadata(spec.input.side_px, spec.map_shape)

    async def _model_infer(self, request: Any, context: Any) -> Any:
        watch = Stopwatch(self._core.metrics, "grpc")
        status = 499
        try:
            response = await self._answer(request, context)
            status = 200
            return response
        except RefusedError as refusal:
            status = refusal.status
            raise
        except Exception:
            status = 500
            raise
        finally:
            watch.stop(status)

    async def _answer(self, request: Any, context: Any) -> Any:
        core = self._core
        tensors.check_model(request.model_name, request.model_version)
        with core.accept() as model, self._bodies.room() as room:
            size_bytes = request.ByteSize()
            room.take(size_bytes)
            spec = model.spec
            crops, outputs = await core.offload(size_bytes, v2_grpc.parse, request, spec.input.side_px, spec.map_shape)
            answered = await core.classify(crops, Caller(_client(context.peer()), request.id, "grpc"), model)
            return v2_grpc.render(answered, request, outputs)


def _client(peer: str) -> str:
    """The network address in gRPC's name of a peer, such as ``ipv4:127.0.0.1:4711``."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind
