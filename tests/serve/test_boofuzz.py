"""boofuzz against the HTTP side, as in Triton's own tests: each part of a request takes each of its bad values.

8 methods at 20 addresses, then one part at a time: the path, the version, headers, lengths, the JSON, the binary data.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.server import Server, serving, until
from helpers.v2 import crop_png, files_request
from serve.test_long import ADDRESSES, METHODS

boofuzz = pytest.importorskip("boofuzz", reason="boofuzz is not installed: pip install -c constraints.txt '.[fuzz]'")
pytestmark = pytest.mark.slow

INFER = "/v2/models/glomedge/infer"
PATIENCE_S = 20.0
LENGTH = re.compile(rb"content-length: (\d+)")
LONGEST = 4000
"""Characters of a bad text: longer ones are bodies, which have tests of their own."""


class Connection(boofuzz.TCPSocketConnection):  # type: ignore[misc, name-defined]
    """Reads one whole HTTP response, or what there is before the server hangs up."""

    def recv(self, max_bytes: int) -> bytes:
        """All of it."""
        seen = b""
        with contextlib.suppress(OSError):
            while not whole(seen) and (part := self._sock.recv(65536)):
                seen += part
        return seen


def whole(response: bytes) -> bool:
    """Whether headers and body are there."""
    head, end, body = response.partition(b"\r\n\r\n")
    length = LENGTH.search(head.lower())
    return bool(end) and (length is None or len(body) >= int(length.group(1)) or b" 204 " in head[:20])


def sound(fuzzed: str) -> Any:
    """A sound request, of which one kind of parts takes bad values.

    Args:
        fuzzed: ``methods`` and addresses, ``path``, ``version``, ``headers``, ``lengths``, ``json`` or ``binary``.
    """
    names = iter(f"{fuzzed}{index}" for index in range(100))

    def fixed(value: str) -> Any:
        return boofuzz.Static(next(names), default_value=value)

    def text(kind: str, value: str) -> Any:
        return boofuzz.String(next(names), value, max_len=LONGEST) if kind == fuzzed else fixed(value)

    def size(block: str) -> Any:
        return boofuzz.Size(next(names), block, output_format="ascii", length=4, fuzzable=fuzzed == "lengths")

    def chosen(first: str, others: tuple[str, ...]) -> Any:
        every = [first, *(value for value in others if value != first)]
        return boofuzz.Group(next(names), every, fuzzable=fuzzed == "methods")

    crop = crop_png(1, 40)
    address = text("path", INFER) if fuzzed == "path" else chosen(INFER, ADDRESSES)
    line = [chosen("POST", METHODS), fixed(" "), address, fixed(" HTTP/"), text("version", "1.1")]
    headers = [fixed("\r\nHost: "), text("headers", "localhost"), fixed("\r\nContent-Encoding: ")]
    headers += [text("headers", "identity"), fixed("\r\nConnection: close\r\nContent-Length: "), size("body")]
    headers += [fixed("\r\nInference-Header-Content-Length: "), size("document"), fixed("\r\n\r\n")]
    document = [fixed('{"id": "'), text("json", "a1"), fixed('", "inputs": [{"name": "'), text("json", "image")]
    document += [fixed('", "datatype": "'), text("json", "BYTES"), fixed('", "shape": [')]
    document += [boofuzz.DWord(next(names), 1, output_format="ascii", fuzzable=fuzzed == "json")]
    document += [fixed('], "parameters": {"binary_data_size": '), size("files"), fixed("}}]}")]
    files = [boofuzz.DWord(next(names), len(crop), endian="<", fuzzable=fuzzed == "binary")]
    files += [boofuzz.Bytes(next(names), crop[:60], max_len=LONGEST, fuzzable=fuzzed == "binary")]
    files += [boofuzz.Static(next(names), default_value=crop[60:])]
    body = [boofuzz.Block("document", children=document), boofuzz.Block("files", children=files)]
    return boofuzz.Request(fuzzed, children=[*line, *headers, boofuzz.Block("body", children=body)])


class Campaign:
    """Sessions of boofuzz, one a request, and every answer that they saw.

    Of a request that is named, boofuzz tries all combinations of bad values, whatever depth it is given: millions.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self.answers: list[tuple[str, bytes]] = []
        self.failures: dict[Any, Any] = {}
        """What boofuzz itself calls a failure: connections refused, above all."""
        self._server, self._folder = server, folder

    def _session(self, name: str) -> Any:
        connection = Connection("127.0.0.1", self._server.port, send_timeout=PATIENCE_S, recv_timeout=PATIENCE_S)
        return boofuzz.Session(
            target=boofuzz.Target(connection=connection),
            web_port=None,
            keep_web_open=False,
            fuzz_loggers=[],
            db_filename=str(self._folder / f"{name}.db"),
            receive_data_after_fuzz=True,
            ignore_connection_reset=True,
            ignore_connection_aborted=True,
            restart_threshold=3,
            pre_send_callbacks=[self._forget],
            post_test_case_callbacks=[self._keep],
        )

    def _forget(self, *, session: Any, **_: Any) -> None:
        session.last_recv = None

    def _keep(self, *, session: Any, **_: Any) -> None:
        self.answers.append((session.current_test_case_name, session.last_recv or b""))

    def run(self, request: Any, depth: int = 1) -> None:
        """All bad values of one request, so many parts at a time; raises where the server is not there any more."""
        session = self._session(request.name)
        session.connect(request)
        session.fuzz(max_depth=depth)
        self.failures |= session.monitor_results


@pytest.fixture
def server(tiny_model: Path) -> Iterator[Server]:
    with serving(tiny_model, "--header-timeout", "0.5", "--body-timeout", "0.3") as running:
        yield running


def judged(name: str, answer: bytes) -> int:
    """The status of one answer, which is right for what it says; 0 where the server hung up."""
    if not answer:
        return 0
    head, _, body = answer.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    assert found, (name, answer[:200])
    status = int(found.group(1))
    # A bad text with line ends makes two requests of one: the second has an answer of its own.
    if length := LENGTH.search(head.lower()):
        body = body[: int(length.group(1))]
    if status >= 400 and b"application/json" in head and body:
        assert 10 < len(json.loads(body)["error"]) < 300, name
    if status == 200 and b'"outputs":[' in body:
        for output in json.loads(body)["outputs"]:
            if output["name"] == "probability":
                assert all(value is None or 0 <= value <= 1 for value in output["data"]), name
            if output["name"] == "status":
                assert all(re.match("ok|flagged:|error:", value) for value in output["data"]), name
    return status


def test_boofuzz_finds_no_failure(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # it keeps its results where it is
    campaign = Campaign(server, tmp_path)
    document, binary = files_request([crop_png(1, 40)])
    expected = server.infer(document, binary).body
    campaign.run(sound("methods"), depth=2)
    before_mb = server.rss_mb()
    for part in ("path", "version", "headers", "lengths", "json", "binary"):
        campaign.run(sound(part))
    assert campaign.failures == {}
    counts = Counter(judged(name, answer) for name, answer in campaign.answers)
    print(f"boofuzz: {len(campaign.answers)} cases, {dict(counts)}, {server.rss_mb() - before_mb:+.1f} MB")
    assert len(campaign.answers) > 5000
    assert set(counts) <= {0, 200, 201, 204, 307, 400, 403, 404, 405, 408, 409, 411, 413, 415, 421, 431, 501, 505}
    assert counts[200] > 500
    assert server.rss_mb() - before_mb < 40
    assert not [line for line in server.lines if line["event"] == "defect"]
    assert b"Traceback" not in server.raw
    until(lambda: server.metric("glomedge_queue_crops") == 0)
    assert server.metric("glomedge_bodies_bytes") == 0
    assert server.infer(document, binary).body == expected
    with socket.create_connection(("127.0.0.1", server.port)):
        assert server.stop() == 0
