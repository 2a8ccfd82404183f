"""HTTP as it is on the wire: what one connection may send, and what a proxy before it might understand otherwise."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from helpers.server import Server, serving, until
from helpers.v2 import enhanced, pixels_request

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"
HEADER = "Inference-Header-Content-Length"
INFER = b"POST /v2/models/glomedge/infer HTTP/1.1\r\nHost: localhost\r\n"


def answer_to(server: Server, *pieces: bytes) -> bytes:
    """All that comes back until the server closes, or one whole answer with its JSON."""
    seen = b""
    with server.connect() as line:
        for piece in pieces:
            line.sendall(piece)
        while not seen.endswith(b"}"):
            if not (piece := line.recv(65536)):
                break
            seen += piece
    return seen


def test_a_header_without_an_end_is_refused_before_its_time_is_over(server: Server) -> None:
    before_mb = server.rss_mb()
    with server.connect() as line:
        line.sendall(LIVE)
        line.settimeout(0.001)
        seen = b""
        for number in itertools.count():
            assert number < 1000
            try:
                line.sendall(b"X-%d: " % number + b"y" * 1000 + b"\r\n")
                seen += line.recv(4096)
            except TimeoutError:
                continue
            except OSError:  # closed while this side was still sending
                break
            if seen:
                break
    assert not seen or seen.startswith(b"HTTP/1.1 400")
    assert number < 300  # 64 kB are allowed, and what is on its way
    assert server.rss_mb() - before_mb < 20
    assert server.get("/v2/health/live").status == 200


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b"Content-Length: 2, 3\r\n",
        b"Content-Length: +2\r\n",
        b"Content-Length: 0x2\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Content-Length : 2\r\n",
        b" Content-Length: 2\r\n",
        b"X: a\nContent-Length: 2\r\n",
        b"X: a\r\n b\r\nX\x00: c\r\n",
    ],
)
def test_a_body_whose_end_may_be_understood_in_two_ways_is_refused(server: Server, framing: bytes) -> None:
    answered = answer_to(server, INFER + framing + b"\r\n{}0\r\n\r\n" + LIVE + b"\r\n")
    assert answered.startswith(b"HTTP/1.1 400 ")
    assert b'"live"' not in answered  # no second request was seen in what follows


def test_the_next_header_may_begin_behind_a_large_body(slow_model: Path) -> None:
    """Its first bytes come with those of the body, and the rest long after: the answer under way is not cut off."""
    document, binary = pixels_request(enhanced(1, 4))
    text = json.dumps(document).encode()
    head = f"{HEADER}: {len(text)}\r\nContent-Length: {len(text) + len(binary)}\r\n\r\n".encode()
    with serving(slow_model, "--header-timeout", "0.1", "--batch-size", "1") as server, server.connect() as line:
        line.sendall(INFER + head + text + binary + LIVE[:20])
        seen = b""
        while b'"outputs"' not in seen:
            piece = line.recv(65536)
            assert piece, seen
            seen += piece
    assert seen.startswith(b"HTTP/1.1 200 ")


def test_a_large_body_comes_in_pieces_of_any_size(server: Server) -> None:
    """More than is kept unread, in chunks and in pieces that end anywhere; the answer is that of the body at once."""
    document, binary = pixels_request(enhanced(1, 4))
    text = json.dumps(document).encode()
    whole = text + binary
    alone = server.infer(document, binary).json()
    pieces = list[bytes]()
    for size in itertools.cycle((1, 2, 65_535, 3, 65_536, 100_000)):
        if not (piece := whole[:size]):
            break
        pieces.append(piece)
        whole = whole[size:]
    reply = server.request("POST", "/v2/models/glomedge/infer", iter(pieces), {HEADER: str(len(text))})
    assert reply.status == 200
    assert reply.json() == alone
    head = f"{HEADER}: {len(text)}\r\nContent-Length: {len(text + binary)}\r\n\r\n".encode()
    assert json.loads(answer_to(server, INFER + head, *pieces).partition(b"\r\n\r\n")[2]) == alone
    assert server.metric("glomedge_bodies_bytes") == 0


def test_chunks_that_come_at_once_are_put_together(server: Server) -> None:
    """All of them before the handler begins: a first one that is taken as it is, and others behind it."""
    document, binary = pixels_request(enhanced(1, 1))
    text = json.dumps(document).encode()
    whole = text + binary
    alone = server.infer(document, binary).json()
    for sizes in ((100_000, 1, 40_000, 20_000), (1, 100_000, 60_000), (16_384, 16_384, 200_000), (200_000,)):
        sent, left = INFER + f"{HEADER}: {len(text)}\r\nTransfer-Encoding: chunked\r\n\r\n".encode(), whole
        for size in sizes:
            part, left = left[:size], left[size:]
            sent += b"%x\r\n%b\r\n" % (len(part), part)
        assert not left
        assert json.loads(answer_to(server, sent + b"0\r\n\r\n").partition(b"\r\n\r\n")[2]) == alone


def test_requests_that_come_at_once_are_answered_in_their_order(server: Server) -> None:
    """Their bodies too: one is complete before its handler begins, with the next one behind it."""
    sent = b""
    for number in range(5):
        document, binary = pixels_request(enhanced(number, 1), "probability", id=f"request {number}")
        text = json.dumps(document).encode()
        sent += INFER + f"{HEADER}: {len(text)}\r\nContent-Length: {len(text + binary)}\r\n\r\n".encode()
        sent += text + binary
    seen = b""
    with server.connect() as line:
        line.sendall(sent)
        while seen.count(b'"outputs"') < 5:
            piece = line.recv(65536)
            assert piece, seen
            seen += piece
    places = [seen.index(f"request {number}".encode()) for number in range(5)]
    assert places == sorted(places)
    assert seen.count(b"HTTP/1.1 200 ") == 5


def test_a_client_that_goes_in_the_middle_of_its_body_leaves_nothing(server: Server) -> None:
    for _ in range(10):
        with server.connect() as line:
            line.sendall(INFER + b"Content-Length: 1000000\r\n\r\n" + b"x" * 600_000)
            until(lambda: server.metric("glomedge_bodies_bytes") == 600_000)
    until(lambda: server.metric("glomedge_bodies_bytes") == 0)
    assert server.get("/v2/health/live").status == 200


def test_a_client_that_goes_at_once_is_not_worked_for(slow_model: Path) -> None:
    document, binary = pixels_request(enhanced(1, 1))
    text = json.dumps(document).encode()
    head = f"{HEADER}: {len(text)}\r\nContent-Length: {len(text) + len(binary)}\r\n\r\n".encode()
    with serving(slow_model, "--batch-size", "1") as server:
        for _ in range(20):
            with server.connect() as line:
                line.sendall(INFER + head + text + binary)
        begin = server.metric("glomedge_batch_crops_sum")
        until(lambda: server.metric("glomedge_queue_crops") == 0)
        assert server.metric("glomedge_batch_crops_sum") - begin < 10
        assert server.infer(document, binary).status == 200


def test_a_client_that_waits_for_100_is_told_to_go_on(server: Server) -> None:
    with server.connect() as line:
        line.sendall(INFER + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert line.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(b"{}")
        assert line.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_an_upgrade_is_not_offered(server: Server) -> None:
    wanted = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n"
    assert answer_to(server, LIVE + wanted).startswith(b"HTTP/1.1 200 ")
    assert server.get("/v2/health/live").status == 200
