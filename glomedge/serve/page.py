"""The page at ``/``, and what its script asks for: a run is made, given crops, finished, read and forgotten."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from glomedge.about import __version__
from glomedge.errors import GlomedgeError
from glomedge.imaging.images import ALLOWED_SUFFIXES
from glomedge.reports import html
from glomedge.runs.outcome import THUMBNAIL_PX
from glomedge.serve.app import client_of, json_response
from glomedge.serve.body import Bodies, read_body, save_body, unless_gone
from glomedge.serve.cases import MOST_CROPS, check_name
from glomedge.serve.core import Caller, Core, Files, Parts
from glomedge.serve.page_disk import disk_warnings
from glomedge.serve.page_run import FILES, PageRun, remove_abandoned
from glomedge.serve.page_slides import SlidesRoom, points_elsewhere, slides_possible
from glomedge.serve.refusal import RefusedError, busy, malformed, not_found
from glomedge.slides.pairs import OUTLINE_SUFFIXES, PACKED_SUFFIXES, SHARED_SUFFIXES, SLIDE_SUFFIXES
from glomedge.system.stopping import StoppedError

MOST_RUNS = 8
_IDLE_S = 1800.0
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_LABEL_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_OUTLINES_AT_ONCE = 8
_MOST_ANSWERS = 2 * MOST_CROPS
"""A crop that is sent again after a lost answer is written again."""
_REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"


@dataclass
class _Open:
    """A run that somebody may still ask for."""

    run: PageRun
    forget: asyncio.TimerHandle
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class PageApi:
    """The handlers of one server; ``close`` at its end."""

    def __init__(self, core: Core, bodies: Bodies, *, token_needed: bool) -> None:
        self._core, self._bodies, self._token_needed = core, bodies, token_needed
        self._runs: dict[str, _Open] = {}
        self._slides_room = SlidesRoom(core.options.limits.slides_bytes)
        remove_abandoned()
        if self._takes_slides():
            folder = Path(tempfile.gettempdir())
            for message in disk_warnings(folder, core.options.limits.slides_bytes):
                core.log.event("warning", message=message)
        self._script = resources.files("glomedge.reports").joinpath("templates", "serve.js").read_bytes()

    def routes(self) -> list[Route]:
        """For ``app.HttpApp``."""
        run = "/v1/runs/{run}"
        return [
            Route("/", self._page),
            Route("/page.js", self._page_script),
            Route("/label.html", self._label_page),
            Route("/v1/runs", self._begin, methods=["POST"]),
            Route(f"{run}/crops", self._crop, methods=["PUT"]),
            Route(f"{run}/slides", self._slide, methods=["PUT"]),
            Route(f"{run}/slides/read", self._read_slides, methods=["POST"]),
            Route(f"{run}/outlines", self._outlines, methods=["POST"]),
            Route(f"{run}/finish", self._finish, methods=["POST"]),
            Route(f"{run}/forget", self._forget, methods=["POST"]),
            Route(run, self._forget, methods=["DELETE"]),
            Route(f"{run}/{{file}}", self._file),
        ]

    def close(self) -> None:
        """Forget every run; waits for one that is being published."""
        for identity in list(self._runs):
            self._drop(identity)

    async def _page(self, request: Request) -> Response:
        model = self._core.model
        slides = slide_endings() if self._takes_slides() else {}
        text = html.render(
            "serve.html",
            title="Globally sclerotic glomeruli",
            subtitle=f"glomedge {__version__} on {model.engine.provider}, model {model.sha256[:12]}",
            suffixes=sorted(ALLOWED_SUFFIXES),
            token_needed=self._token_needed,
            largest_bytes=self._core.options.limits.body_bytes,
            most_crops=MOST_CROPS,
            label_page=self._core.options.label_page is not None,
            slides=slides,
            most_slides_bytes=self._core.options.limits.slides_bytes,
            accepted=",".join(sorted({*ALLOWED_SUFFIXES, *" ".join(slides.values()).split()})),
        )
        return Response(text, headers={"content-security-policy": _PAGE_POLICY}, media_type="text/html")

    async def _page_script(self, request: Request) -> Response:
        return Response(self._script, media_type="text/javascript")

    async def _label_page(self, request: Request) -> Response:
        path = self._core.options.label_page
        try:
            data = None if path is None else await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            self._core.log.event("page_failed", error=type(error).__name__, message="the labelling page")
            data = None
        if data is None:
            raise not_found("There is no labelling page. Start the server with --label-page.")
        return Response(data, headers={"content-security-policy": _LABEL_POLICY}, media_type="text/html")

    async def _begin(self, request: Request) -> Response:
        if len(self._runs) >= MOST_RUNS:
            raise busy(f"{MOST_RUNS} pages are at work already. Close one, or ask again later.", 30)
        with self._core.accept() as model:
            try:
                run = PageRun(self._core.options, model, self._slides_room)
            except GlomedgeError as error:
                raise self._failed(error) from None
        identity = secrets.token_urlsafe(24)
        self._runs[identity] = _Open(run, self._timer(identity))
        return json_response({"id": identity}, 201)

    async def _crop(self, request: Request) -> Response:
        opened = self._opened(request)
        name = check_name(request.query_params.get("name"))
        core = self._core
        # The run may be forgotten at any time from here on, and lets go of its model then.
        with core.accept(), opened.run.model.held() as model, self._bodies.room() as room:
            body = await read_body(request.scope, request.receive, room)
            caller = Caller(client_of(request.scope), "", "page")
            work = core.classify(Files([body]), caller, model, thumbnail_px=THUMBNAIL_PX)
            answered = await unless_gone(request.scope, work)
            (answer,) = answered.answers
            async with opened.lock:
                self._check_kept(request, opened)
                if opened.run.published:
                    raise _finished()
                run = opened.run
                if run.size >= MOST_CROPS or run.kept >= _MOST_ANSWERS:
                    raise malformed(f"A run of the page takes {MOST_CROPS} crops. Use glomedge infer for more.")
                try:
                    opened.run.add(name, answer)
                except GlomedgeError as error:
                    raise self._failed(error) from None
        return json_response(
            {
                "status": answer.status,
                "probability": answer.probability,
                "label": answered.label(answer),
                "message": answer.message,
            }
        )

    def _takes_slides(self) -> bool:
        return self._core.options.limits.slides_bytes > 0 and slides_possible()

    async def _slide(self, request: Request) -> Response:
        """One file of a slide, or one of outlines."""
        opened = self._opened(request)
        name = check_name(request.query_params.get("name"))
        if not self._takes_slides():
            raise malformed("This server takes no slides: it lacks the extra 'slides', or was started so.")
        with self._core.accept():
            async with opened.lock:
                self._check_open(request, opened)
                slides = opened.run.slides
                if slides.found is not None:
                    raise RefusedError(409, "The slides of this run are read already. Begin another one.")
                try:
                    path = slides.place(name)
                except (ValueError, OSError):
                    raise malformed("A name must be a path of a file within a folder, seven deep at most.") from None
                upload = slides.upload(path)
                try:
                    await save_body(request, path, self._core.options.limits, upload)
                    if await asyncio.to_thread(points_elsewhere, path):
                        raise malformed("This index file of a slide names files outside its own folder.")
                except BaseException:
                    slides.drop(path)
                    raise
        return json_response({"bytes": upload.bytes})

    async def _read_slides(self, request: Request) -> Response:
        opened = self._opened(request)
        with self._core.accept():
            async with opened.lock:
                self._check_open(request, opened)
                if opened.run.slides.found is not None:  # asked again after a lost answer
                    return json_response(opened.run.slides.found)
                try:
                    found = await asyncio.to_thread(opened.run.read_slides)
                except GlomedgeError as error:
                    raise self._failed(error) from None
                except StoppedError:
                    opened.run.slides.clear()
                    raise malformed("There are more outlines than the page takes. Use glomedge infer.") from None
                if found["outlines"] + len(opened.run) > MOST_CROPS:
                    opened.run.slides.clear()
                    raise malformed(f"A run of the page takes {MOST_CROPS} glomeruli. Use glomedge infer for more.")
        return json_response(found)

    async def _outlines(self, request: Request) -> Response:
        """Answer some outlines of the slides that were read: those from a number on."""
        opened, core = self._opened(request), self._core
        first = request.query_params.get("from", "")
        begin = int(first) if first.isascii() and first.isdigit() and len(first) < 8 else -1
        slides = opened.run.slides
        found = slides.inputs[begin : begin + min(_OUTLINES_AT_ONCE, core.options.limits.request_crops)]
        if begin < 0 or not found or slides.parts is None:
            raise malformed("There is no such outline. Send the slides, then ask for their outlines.")
        errors = opened.run.errors_of(found)
        if errors is not None:  # asked again after a lost answer
            return json_response({"answered": len(found), "errors": errors})
        with core.accept(), opened.run.model.held() as model:
            caller = Caller(client_of(request.scope), "", "page")
            work = core.classify(Parts(found, slides.parts), caller, model, thumbnail_px=THUMBNAIL_PX)
            answers = (await unless_gone(request.scope, work)).answers
            async with opened.lock:
                self._check_open(request, opened)
                try:
                    opened.run.add_outlines(answers)
                except GlomedgeError as error:
                    raise self._failed(error) from None
        errors = sum(answer.status.startswith("error:") for answer in answers)
        return json_response({"answered": len(answers), "errors": errors})

    async def _finish(self, request: Request) -> Response:
        opened = self._opened(request)
        with self._core.accept():
            async with opened.lock:
                self._check_kept(request, opened)
                if not len(opened.run):
                    raise malformed("There is no crop in this run. Send at least one.")
                if opened.run.open_outlines:
                    raise RefusedError(409, f"{opened.run.open_outlines} outlines have no answer yet. Ask for them.")
                if not opened.run.published:
                    try:
                        await asyncio.to_thread(opened.run.publish)
                    except GlomedgeError as error:
                        raise self._failed(error) from None
        return json_response({"files": opened.run.files})

    async def _file(self, request: Request) -> Response:
        opened, name = self._opened(request), request.path_params["file"]
        if name not in FILES:
            raise not_found("A run has no such file.")
        if not opened.run.published:
            raise RefusedError(409, "This run is not finished.")
        if name not in opened.run.files:
            raise not_found("This run has no such file: it had no slides.")
        headers = {"content-security-policy": _REPORT_POLICY, "content-disposition": f'inline; filename="{name}"'}
        return FileResponse(opened.run.file(name), headers=headers, media_type=FILES[name])

    async def _forget(self, request: Request) -> Response:
        opened = self._opened(request)
        async with opened.lock:
            self._drop(request.path_params["run"])
        return json_response({"forgotten": True})

    def _opened(self, request: Request) -> _Open:
        identity = request.path_params["run"]
        found = self._runs.get(identity)
        if found is None:
            raise _no_run()
        found.forget.cancel()
        found.forget = self._timer(identity)
        return found

    def _check_kept(self, request: Request, opened: _Open) -> None:
        """With its lock held: raise RefusedError (404) where the run was forgotten since it was asked for."""
        if self._opened(request) is not opened:
            raise _no_run()

    def _check_open(self, request: Request, opened: _Open) -> None:
        """The same; and raise RefusedError (409) where it is finished."""
        self._check_kept(request, opened)
        if opened.run.published:
            raise _finished()

    def _timer(self, identity: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(_IDLE_S, self._idle, identity)

    def _idle(self, identity: str) -> None:
        found = self._runs.get(identity)
        if found is not None and found.lock.locked():  # something is written or published now: it is not idle
            found.forget = self._timer(identity)
            return
        self._drop(identity)

    def _drop(self, identity: str) -> None:
        found = self._runs.pop(identity, None)
        if found is not None:
            found.forget.cancel()
            try:
                found.run.close()
            except OSError as error:  # the next start deletes what is left
                self._core.log.event("page_failed", error=type(error).__name__, message="a temporary folder is left")

    def _failed(self, error: GlomedgeError) -> RefusedError:
        self._core.log.event("page_failed", error=type(error).__name__, message=str(error))
        return RefusedError(507, "The server cannot keep what it needs for this page; its log says why.")


def slide_endings() -> dict[str, str]:
    """What the script is told of the endings of files: of slides, of pictures that may be slides, of outlines."""
    return {
        "sure": " ".join(sorted(SLIDE_SUFFIXES)),
        "shared": " ".join(sorted(SHARED_SUFFIXES)),
        "outlines": " ".join(OUTLINE_SUFFIXES),
        "packed": " ".join(PACKED_SUFFIXES),
    }


def _finished() -> RefusedError:
    return RefusedError(409, "This run is finished. Begin another one.")


def _no_run() -> RefusedError:
    return not_found("There is no such run: it was finished with, or idle for too long. Begin another one.")
