"""``POST /v1/cases``: the crops of a biopsy in, its row of ``cases.csv`` out, as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from glomedge.cases.names import CaseFinder, CaseName
from glomedge.cases.summary import CaseSummary, CaseTally, CropCall
from glomedge.model import site
from glomedge.model.spec import ModelSpec
from glomedge.serve.app import client_of, json_response
from glomedge.serve.body import Bodies, read_body, unless_gone
from glomedge.serve.core import Answered, Caller, Core, Files
from glomedge.serve.refusal import malformed
from glomedge.serve.v2_json import base64_bytes, strict_json

MOST_NAME_CHARACTERS = 1000
MOST_CROPS = 2000
"""Of one request, as of one run of the page."""
_MOST_BRACKETS_A_CROP = 50


@dataclass(frozen=True)
class CasesRequest:
    """What a body asks for.

    Attributes:
        names: of the crops: file names or paths, from which biopsy and slide are read.
        files: their contents.
        case: the biopsy that all crops belong to; None: as their names say.
        exclude_flagged: leave flagged crops out of the counts.
    """

    names: list[str]
    files: Files
    case: str | None
    exclude_flagged: bool


def parse(body: bytes) -> CasesRequest:
    """A body ``{"crops": [{"name": ..., "data": base64}], "case": ..., "exclude_flagged": ...}``.

    Raises:
        RefusedError: 400.
    """
    # Names may hold commas and brackets, too.
    document = strict_json(body, MOST_CROPS * MOST_NAME_CHARACTERS, MOST_CROPS * _MOST_BRACKETS_A_CROP)
    crops = document.get("crops")
    if not isinstance(crops, list) or not crops or not all(isinstance(crop, dict) for crop in crops):
        raise malformed("The JSON must have a list 'crops' of objects with 'name' and 'data'.")
    if len(crops) > MOST_CROPS:
        raise malformed(f"A request takes {MOST_CROPS} crops, and {len(crops)} were sent. Use glomedge infer for more.")
    names = [check_name(crop.get("name")) for crop in crops]
    if len(set(names)) != len(names):
        raise malformed("Two crops have the same name. Give each crop once, under a name of its own.")
    data = [crop.get("data") for crop in crops]
    if not all(isinstance(text, str) for text in data):
        raise malformed("The 'data' of a crop must be a text: the image file in base64.")
    case = document.get("case")
    if case is not None:
        case = check_name(case)
    exclude_flagged = document.get("exclude_flagged", False)
    if not isinstance(exclude_flagged, bool):
        raise malformed("'exclude_flagged' must be true or false.")
    return CasesRequest(names, Files([base64_bytes(str(text)) for text in data]), case, exclude_flagged)


def check_name(name: object) -> str:
    """A name that results can carry. Raises RefusedError."""
    if not isinstance(name, str) or not 1 <= len(name) <= MOST_NAME_CHARACTERS:
        raise malformed(f"A name must be a text of 1 to {MOST_NAME_CHARACTERS} characters.")
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise malformed("A name must be text: it holds a NUL or half a character.")
    return name


def summaries(
    asked: CasesRequest, answered: Answered, spec: ModelSpec, *, case_pattern: str | None, at_site: bool
) -> list[CaseSummary]:
    """The biopsies, counted as ``glomedge infer`` counts them."""
    finder = CaseFinder(asked.names, case_pattern)
    names: Iterable[CaseName] = (finder.case_of(name) for name in asked.names)
    if asked.case is not None:
        names = (CaseName(asked.case, name.slide) for name in names)
    calls = [
        CropCall(name, answer.probability, answered.label(answer), answer.status)
        for name, answer in zip(asked.names, answered.answers, strict=True)
    ]
    tally = CaseTally(exclude_flagged=asked.exclude_flagged)
    tally.add_many(list(names), calls, [call.probability for call in calls])
    return tally.summaries(spec.operating_point if at_site else None)


class CasesApi:
    """The handler of one server."""

    def __init__(self, core: Core, bodies: Bodies) -> None:
        self._core, self._bodies = core, bodies

    def routes(self) -> list[Route]:
        """For ``app.HttpApp``."""
        return [Route("/v1/cases", self._cases, methods=["POST"])]

    async def _cases(self, request: Request) -> Response:
        core = self._core
        with core.accept() as model, self._bodies.room() as room:
            body = await read_body(request.scope, request.receive, room)
            asked = await core.offload(len(body), parse, body)
            caller = Caller(client_of(request.scope), "", "cases")
            answered = await unless_gone(request.scope, core.classify_many(asked.files, caller, model))
            options, spec = core.options, model.spec
            at_site = options.site is not None
            found = summaries(asked, answered, spec, case_pattern=options.case_pattern, at_site=at_site)
            return json_response(
                {
                    "cases": [asdict(summary) for summary in found],
                    "crops": _crops(asked, answered),
                    "model_sha256": answered.model_sha256,
                    "threshold": answered.threshold,
                    "notes": [] if at_site else [site.why_uncorrected(spec)],
                }
            )


def _crops(asked: CasesRequest, answered: Answered) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "sha256": answer.sha256,
            "probability": answer.probability,
            "label": answered.label(answer),
            "status": answer.status,
            "message": answer.message,
        }
        for name, answer in zip(asked.names, answered.answers, strict=True)
    ]
