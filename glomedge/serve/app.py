"""The HTTP side: Open Inference Protocol v2, ``/metrics``, and what the other modules add."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from glomedge.about import RESEARCH_USE_NOTICE, __version__
from glomedge.serve import metrics, tensors, v2_json
from glomedge.serve.body import Bodies, read_body, unless_gone
from glomedge.serve.connection import header
from glomedge.serve.core import Caller, Core, Stopwatch
from glomedge.serve.guard import Guard, error_response
from glomedge.serve.options import MODEL_NAME, Tokens
from glomedge.serve.refusal import RefusedError, busy

_INFER = f"/v2/models/{MODEL_NAME}/infer"


def json_response(document: dict[str, Any], status: int = 200) -> Response:
    """A document with the research-use notice."""
    body = json.dumps({**document, "notice": RESEARCH_USE_NOTICE}, allow_nan=False).encode("ascii")
    return Response(body, status, media_type="application/json")


class HttpApp:
    """The handlers of one server.

    Args:
        core: answers the crops.
        tokens: None where no token is needed.
        routes: of other parts of the server.
    """

    def __init__(self, core: Core, tokens: Tokens | None, bodies: Bodies, routes: Sequence[BaseRoute] = ()) -> None:
        self._core, self._tokens, self._bodies = core, tokens, bodies
        self._routes = routes
        core.metrics.watch(core.metrics.bodies, lambda: bodies.bytes)

    def asgi(self) -> ASGIApp:
        """What uvicorn runs."""
        model = "/v2/models/{model}"
        version = model + "/versions/{version}"
        routes = [
            Route("/v2", self._server_metadata),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            *(Route(path, self._model_metadata) for path in (model, version)),
            *(Route(f"{path}/ready", self._model_ready) for path in (model, version)),
            *(Route(f"{path}/infer", self._infer, methods=["POST"]) for path in (model, version)),
            Route("/metrics", self._metrics),
            *self._routes,
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error, RefusedError: _refused})
        app.router.redirect_slashes = False
        # Where a token is needed, another site cannot use the address; a reverse proxy passes on its own name.
        local_only = self._core.options.is_local and self._tokens is None

        async def shortest(scope: Scope, receive: Receive, send: Send) -> None:
            """Starlette's way to a handler and back takes longer than the handler itself."""
            if scope["path"] == _INFER and scope["method"] == "POST":
                body, headers = await self._answer(scope, receive)
                headers.append((b"content-length", b"%d" % len(body)))
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": body})
            else:
                await app(scope, receive, send)

        return Guard(shortest, tokens=self._tokens, local_only=local_only, log=self._core.log)

    async def _server_metadata(self, request: Request) -> Response:
        return json_response({"name": MODEL_NAME, "version": __version__, "extensions": ["binary_tensor_data"]})

    async def _live(self, request: Request) -> Response:
        return json_response({"live": True})

    async def _ready(self, request: Request) -> Response:
        if not self._core.ready:
            raise busy("The server is shutting down.", 5)
        return json_response({"ready": True})

    async def _model_metadata(self, request: Request) -> Response:
        _check_model(request)
        model = self._core.model
        found = tensors.model_metadata(model.spec.input.side_px, model.spec.map_shape)
        return json_response({**found, "model_sha256": model.sha256, "threshold": model.spec.threshold})

    async def _model_ready(self, request: Request) -> Response:
        _check_model(request)
        if not self._core.ready:
            raise busy("The server is shutting down.", 5)
        return json_response({"name": MODEL_NAME, "ready": True})

    async def _metrics(self, request: Request) -> Response:
        return Response(self._core.metrics.text(), headers={"content-type": metrics.CONTENT_TYPE})

    async def _infer(self, request: Request) -> Response:
        asked = request.path_params
        body, headers = await self._answer(request.scope, request.receive, asked["model"], asked.get("version", ""))
        response = Response(body)
        response.raw_headers += headers
        return response

    async def _answer(
        self, scope: Scope, receive: Receive, name: str = MODEL_NAME, version: str = ""
    ) -> tuple[bytes, v2_json.Headers]:
        core = self._core
        watch = Stopwatch(core.metrics, "http")
        status = 499
        try:
            tensors.check_model(name, version)
            with core.accept() as model, self._bodies.room() as room:
                body = await read_body(scope, receive, room)
                text = v2_json.json_length(header(scope, v2_json.HEADER_LENGTH), len(body))
                # Binary data are copied, JSON is read.
                work = text + (len(body) - text) // 16
                most = core.options.limits.request_crops
                asked = await core.offload(work, v2_json.parse, body, text, most, model.side_px, model.map_shape)
                caller = Caller(client_of(scope), asked.request_id, "http")
                answered = await unless_gone(scope, core.classify(asked.crops, caller, model))
                rendered = v2_json.render(answered, asked)
            status = 200
            return rendered
        except RefusedError as refusal:
            status = refusal.status
            raise
        except ClientDisconnect:
            raise
        except Exception:
            status = 500
            raise
        finally:
            watch.stop(status)


def client_of(scope: Scope) -> str:
    """The network address of who asks."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _check_model(request: Request) -> None:
    tensors.check_model(request.path_params["model"], request.path_params.get("version", ""))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "There is nothing at this address.", 405: "This address does not take this method."}
    response = error_response(RefusedError(error.status_code, words.get(error.status_code, "The request is refused.")))
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return error_response(error)
