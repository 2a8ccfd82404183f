"""What takes minutes: 100,000 requests, and requests of no sense to every address by every method."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.server import Server, serving, until
from helpers.v2 import crop_png, enhanced, files_request, pixels_request

pytestmark = pytest.mark.slow

INFER = "/v2/models/glomedge/infer"
REQUESTS, CLIENTS = 100_000, 8
FUZZ_ROUNDS = 25
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
ADDRESSES = (
    "/", "/page.js", "/metrics", "/v2", "/v2/", "/v2/health/live", "/v2/health/ready", "/v2/models",
    "/v2/models/glomedge", "/v2/models/glomedge/ready", "/v2/models/glomedge/infer", "/v2/models/glomedge/versions/1",
    "/v2/models/glomedge/versions/1/infer", "/v2/models/glomedge/versions/-1/infer", "/v2/models/%00/infer",
    "/v2/repository/index", "/v1/cases", "/v1/runs", "/v1/runs/x/crops?name=a", "/v1/runs/x/report.html",
)  # fmt: skip


def bodies() -> list[tuple[bytes, dict[str, str]]]:
    """Sound requests, to be broken."""
    found = []
    for document, binary in (files_request([crop_png(1, 40)], id="x"), pixels_request(enhanced(1, 1), "activation")):
        text = json.dumps(document).encode()
        found.append((text + binary, {"Inference-Header-Content-Length": str(len(text))}))
    entry = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["AAAA"]}
    found.append((json.dumps({"inputs": [entry], "outputs": [{"name": "label"}]}).encode(), {}))
    found.append((json.dumps({"crops": [{"name": "S-1_1.png", "data": "AAAA"}]}).encode(), {}))
    return found


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The body with some of its bytes changed, left out or said twice."""
    changed = bytearray(data[:4000])
    for _ in range(rng.randint(1, 12)):
        at = rng.randrange(max(1, len(changed)))
        match rng.randrange(4):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del changed[at : at + rng.randint(1, 50)]
            case 2:
                changed[at:at] = changed[at : at + rng.randint(1, 200)]
            case _:
                changed[at:at] = rng.choice(
                    [b"[" * 2000, b"-1", b"null", b'"', b"\\ud800", b"9" * 400, b"1e999", b"{}"]
                )
    return bytes(changed)


def soak(server: Server, requests: int) -> Counter[int]:
    """So many requests on connections that stay open, files and pixels in turn."""
    sent = [files_request([crop_png(1, 40), b"\x89PNG broken"], id="soak"), pixels_request(enhanced(1, 1))]
    counts: Counter[int] = Counter()
    lock = threading.Lock()

    def client(index: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        own: Counter[int] = Counter()
        for number in range(requests // CLIENTS):
            document, binary = sent[(index + number) % 2]
            text = json.dumps(document).encode()
            headers = {"Inference-Header-Content-Length": str(len(text))}
            connection.request("POST", INFER, text + binary, headers)
            reply = connection.getresponse()
            reply.read()
            own[reply.status] += 1
        connection.close()
        with lock:
            counts.update(own)

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(client, range(CLIENTS)))
    return counts


def test_memory_is_flat_over_100_000_requests(tiny_model: Path, tmp_path: Path) -> None:
    with serving(tiny_model, "--audit-log", str(tmp_path / "audit.jsonl")) as server:
        server.keep_lines = False
        assert set(soak(server, REQUESTS // 20)) == {200}
        before_mb = server.rss_mb()
        assert soak(server, REQUESTS) == Counter({200: REQUESTS // CLIENTS * CLIENTS})
        assert server.rss_mb() - before_mb < 20
        assert server.metric("glomedge_queue_crops") == 0
        assert server.stop() == 0
    with (tmp_path / "audit.jsonl").open("rb") as lines:
        assert sum(1 for _ in lines) == REQUESTS // CLIENTS * CLIENTS + REQUESTS // 20 // CLIENTS * CLIENTS


def test_a_body_of_very_many_tiny_chunks_takes_little_memory(tiny_model: Path) -> None:
    document, binary = files_request([crop_png(1, 300)])
    text = json.dumps(document).encode()
    body = text + binary
    headers = {"Inference-Header-Content-Length": str(len(text))}
    assert len(body) > 200_000
    with serving(tiny_model, "--body-timeout", "600") as server:
        assert server.request("POST", INFER, body, headers).status == 200
        before_mb = server.rss_mb()
        parts = (body[at : at + 1] for at in range(len(body)))
        assert server.request("POST", INFER, parts, headers, timeout_s=600).status == 200
        assert server.rss_mb() - before_mb < 20


def test_no_nonsense_ends_the_server(tiny_model: Path) -> None:
    rng = random.Random(20)
    counts: Counter[int] = Counter()
    with serving(tiny_model, "--header-timeout", "2", "--body-timeout", "2") as server:
        for _ in range(FUZZ_ROUNDS):
            for method in METHODS:
                for address in ADDRESSES:
                    body, headers = rng.choice(bodies())
                    counts[server.request(method, address, mutated(rng, body), headers).status] += 1
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
                head = b"POST /v2/models/glomedge/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{}"
                line.sendall(mutated(rng, head))
        assert counts[500] == 0
        assert set(counts) <= {200, 201, 400, 404, 405, 409, 413, 503}
        assert not [line for line in server.lines if line["event"] == "defect"]
        until(lambda: server.metric("glomedge_queue_crops") == 0)
        assert server.infer(*files_request([crop_png(1)])).status == 200
        assert server.stop() == 0
